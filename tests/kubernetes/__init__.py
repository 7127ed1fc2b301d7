"""The platform's part of a deployment, written anew from what is known of it, for both its states.

Read in this order:

    call.py      what it passes to Copier, and its two commands word for word
    road.py      render, commit, push, clone
    objects.py   thinkube.yaml as Kubernetes objects, and the folder k8s/
    rules.py     what a cluster, a quota or the platform's tools would refuse in them
    pod.py       a container of them on this machine: its environment, limits, probes

"2025" and "2026" are the platform's two states. Nothing here has met a cluster.
"""
