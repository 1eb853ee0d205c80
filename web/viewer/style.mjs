/** The viewer's style sheet, once a page. */
let added = false

export function addStyle() {
  if (added) return
  added = true
  const link = document.createElement("link")
  link.rel = "stylesheet"
  link.href = new URL("./viewer.css", import.meta.url).href
  document.head.append(link)
}
