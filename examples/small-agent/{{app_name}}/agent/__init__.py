"""How the agent works. Read in this order:

chain         how a text becomes a summary: one stream of events
prompts       what the model is told
gateway       the models behind an OpenAI-compatible gateway
services      which servers the app talks to
settings      everything that can be configured
runs          long work that outlives the connection that asked for it
health        is it alive, is it ready
problems      errors as a client sees them
schemas       what goes over the wire
tracing       traces in Langfuse
cards         what the page shows as HTML
theme         colours and fonts of the page; its CSS is page.css
ask           a summary from the command line
harmless      what text from elsewhere may not do
access        who somebody is; sign_on is the gate, keys are for programs
tokens        a token for the platform's own services
limits        how much one user may ask for
measures      what Prometheus sees
logs          what the process writes to its log
errors        the two ways in which things go wrong

The doors are `api.py`, `openai_api.py`, `mcp_tools.py` and `ui.py` (page); `app.py` puts them
together. They import this package, never the other way.
"""
