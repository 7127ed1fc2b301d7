"""The least that has a page, in the place of a template's app.py: the floor of what a start costs.

The port first, then the page, then what the work needs, as the templates do it: NEEDS names what a
template cannot do its work without.
"""

import importlib
import os
from threading import Thread

from fastapi import FastAPI


def create_app() -> FastAPI:
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "healthy"}

    Thread(target=_open, args=(app,), daemon=True).start()
    return app


def _open(app: FastAPI) -> None:
    import gradio

    with gradio.Blocks() as page:
        gradio.Textbox(label="Your question")
    gradio.mount_gradio_app(app, page, "/")
    for name in os.environ["NEEDS"].split():
        importlib.import_module(name)
