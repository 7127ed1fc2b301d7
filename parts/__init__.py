"""The platform's services and the templates' apps, run on this machine from packages.

environments   a virtual environment for each of them
programs       a program run to its end; a server until it answers and until it is ended
litellm        the real LiteLLM proxy, and which model stands behind which alias
mlflow         the real MLflow server
nats           the real NATS server
vllm_cpu       vLLM's engine on the CPU, and a small real model
apps           a rendered template that runs

The notebooks and examples/ use them where the platform's variables are not set.
"""
