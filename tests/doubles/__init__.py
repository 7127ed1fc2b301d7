"""Stand-ins that speak the real wire protocol, for tests, load runs and work by hand.

    gateway.py        LiteLLM's OpenAI-compatible gateway: chat, streams at a set pace, embeddings
    qdrant_server.py  Qdrant 1.15's REST API
    langfuse.py       Langfuse 3: takes traces (OTLP) and scores, gives them back as plain dicts
    edge.py           the platform's reverse proxy: cuts, buffers and replaces responses
    git_server.py     a git server over HTTP, as Gitea is one: repositories behind a password

chat.py and embedding.py are the bodies that the gateway answers with; control.py and serve.py what
all of them share. Each has `.app`, served for the length of a block by `serve.running`:

    gateway = Gateway(tokens_per_second=25)
    with running(gateway.app) as url:
        ...
        gateway.fail = "429"

By hand: `python -m tests.doubles.gateway --port 9999`, then
`curl 127.0.0.1:9999/_double -d '{"fail": "429", "tokens_per_second": 5}'` makes it fail and
`curl 127.0.0.1:9999/_double` says how it stands.
"""
