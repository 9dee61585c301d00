"""The server: images in over HTTP, answers out, from one exported file; nothing here imports torch."""
