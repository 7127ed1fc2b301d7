"""What the model is told before each talk of the page; wording only.

Other programs send their own: nothing is added to what comes in at `/v1` and `/api/chat`.
"""

SYSTEM = ""
"""The page's system prompt to begin with; readers may change it for their talk."""
EXAMPLES = (
    "Explain in three sentences what a LoRA adapter is.",
    "Write a haiku about a GPU that is out of memory.",
)
"""Questions that an empty page offers."""
