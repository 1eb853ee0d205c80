class PromptServer:
    instance = None
    texts: list = []  # noqa: RUF012  of every node, in order

    def send_progress_text(self, text, node_id):
        self.texts.append((node_id, text))


PromptServer.instance = PromptServer()
