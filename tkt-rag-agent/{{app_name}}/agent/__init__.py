"""How the agent works. Read in this order:

chain         how a question becomes an answer: one stream of events
prompts       what the model is told, and what the user is told where there is no answer
conversation  what a question means after others
retriever     how passages are found
naming        which document a question names, and what it asks beyond that
ranking       in which order passages are shown
index         what is indexed of a passage and of a document
confidence    how much of what is asked the passages hold
citations     how an answer points at its sources
checking      each sentence of an answer, held against what it cites
support       does a passage bear out a sentence, or refute it?
facts         the numbers, dates, names and negations in a text
ingest        how documents get in
extract       how a file becomes text
split         how a text is cut into passages
store         where documents live, and how they come and go
qdrant        what the store asks of Qdrant; qdrant_embedded and qdrant_server are its two forms
gateway       the models behind an OpenAI-compatible gateway; local_embedding is one in the app
services      which servers the app talks to
settings      everything that can be configured
evaluate      how good the answers are: golden questions, metrics, and a page by report
runs          long work that outlives the connection that asked for it
health        is it alive, is it ready
problems      errors as a client sees them
schemas       what goes over the wire
tracing       traces in Langfuse
cards         what the page shows as HTML
theme         colours and fonts of the page; its CSS is page.css
ask           a question from the command line
doctor        what is wrong?
harmless      what text from elsewhere may not do
feedback      whether a reader found an answer right
access        who somebody is; sign_on is the gate, keys are for programs
tokens        a token for the platform's own services
limits        how much one user may ask for
measures      what Prometheus sees
logs          what the process writes to its log
errors        the two ways in which things go wrong

The doors are `api.py`, `openai_api.py`, `mcp_tools.py` and `ui.py` (page); `app.py` puts them
together. They import this package, never the other way.
"""
