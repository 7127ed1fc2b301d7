"""A talk whose earlier turns are pairs: (what was asked, what was answered)."""

import gradio
from gradio_client import Client


def answer(message: str, history: list[list[str]]) -> str:
    return f"Before, you said {history[-1][0]}." if history else f"You said {message}."


def test_an_answer_knows_what_was_asked_before() -> None:
    talk = gradio.ChatInterface(answer, api_name="chat")
    talk.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, show_error=True)
    try:
        client = Client(talk.local_url, verbose=False)
        assert client.predict("one", api_name="/chat") == "You said one."
        assert client.predict("two", api_name="/chat") == "Before, you said one."
    finally:
        talk.close()
