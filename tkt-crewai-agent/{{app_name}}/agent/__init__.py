"""How the crew works. Read in this order:

prompts        who is in the crew and what each one is told
tools          what they can do; calculator, web, mcp_client and sandbox (with sandbox_child, which
               runs in the child process) are behind them
documents      what they can search and read
crew           how prompts.py becomes a crew of CrewAI's
desk           where a run's calls come together: budget, record, events, trace
worker         what is done with the runs in the queue
work           how a run is begun, followed, approved and stopped
records        what is kept of a run
journal        where runs are kept and wait; journal_local and journal_nats are its two forms
nats_server    the connection to a NATS server
gateway        the model behind an OpenAI-compatible gateway
rehearsal      what stands in for a model where none is connected
services       which servers the app talks to
settings       everything that can be configured
runs           long work that outlives the connection that asked for it
qdrant         what is asked of Qdrant; qdrant_embedded and qdrant_server are its two forms
health         is it alive, is it ready
problems       errors as a client sees them
schemas        what goes over the wire
tracing        traces in Langfuse
cards          what the page shows as HTML
theme          colours and fonts of the page; its CSS is page.css and run.css
ask            a topic from the command line
doctor         what is wrong?
harmless       what text from elsewhere may not do
access         who somebody is; sign_on is the gate, keys are for programs
tokens         a token for the platform's own services
limits         how much one user may ask for
measures       what Prometheus sees
logs           what the process writes to its log
silence        keeps CrewAI from telling others about its use
errors         the two ways in which things go wrong

The doors are `api.py`, `openai_api.py`, `mcp_tools.py`, `nats_door.py` and `ui.py` (page); `app.py`
puts them together. They import this package, never the other way.
"""
