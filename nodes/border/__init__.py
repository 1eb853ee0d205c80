"""Conversions between ComfyUI's types and the library's."""
