"""The HTTP server: OpenAI's transcription interface, reports of calls, and jobs for long ones."""
