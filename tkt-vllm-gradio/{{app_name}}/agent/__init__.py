"""How the app serves a model. Read in this order:

engine        vLLM's own server as a child of this app: started, watched, started again, given up
engine_log    what the engine's output means: how far a start is, and why it failed
weights       where a model's or an adapter's files are; hub and mlflow are two such places
fit           does the model fit the card?
gpu           which cards there are
small         a tiny model on the CPU, to try the app where there is no GPU
adapters      LoRA adapters, loaded and unloaded while the engine runs
chat          how a message becomes an answer: one stream of events
prompts       what the model is told
litellm       the model in LiteLLM's list
services      which servers the app talks to
settings      everything that can be configured
runs          long work that outlives the connection that asked for it
health        is it alive, is it ready
problems      errors as a client sees them
schemas       what goes over the wire
cards         what the page shows as HTML
theme         colours and fonts of the page; its CSS is page.css
ask           a question from the command line
doctor        what is wrong?
access        who somebody is; sign_on is the gate, keys are for programs
tokens        a token for the platform's own services
limits        how much one user may ask for
measures      what Prometheus sees
logs          what the process writes to its log
children      processes that the app starts: what they may see, and that they end with it
guard         stands between the app and such a process
errors        the two ways in which things go wrong

The doors are `api.py`, `openai_api.py` and `ui.py` (page); `app.py` puts them together. They import
this package, never the other way.
"""
