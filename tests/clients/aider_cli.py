import os
import subprocess
import sys
from pathlib import Path

from scene import BASE, MODEL, PROMPT, run

QUIET = [
    "--no-git", "--yes-always", "--no-check-update", "--no-analytics", "--no-show-model-warnings", "--no-auto-lint",
    "--no-pretty", "--no-show-release-notes", "--map-tokens", "0", "--no-detect-urls", "--no-gitignore",
]  # fmt: skip

# Aider asks the network for prices unless it has asked lately.
CACHE = Path.home() / ".aider/caches/model_prices_and_context_window.json"


def aider(*words):
    CACHE.parent.mkdir(parents=True)
    CACHE.write_text('{"asked": {}}')
    backend = {"OPENAI_API_BASE": f"{BASE}/v1", "OPENAI_API_KEY": "unused"}
    command = [sys.executable, "-m", "aider", "--model", f"openai/{MODEL}", "--timeout", "600", *QUIET, *words, "--message", PROMPT]
    done = subprocess.run(command, env={**os.environ, **backend}, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("token-0")]
    return {"text": lines[0]} if lines else {"error": f"exit code {done.returncode}", "message": done.stdout}


def chat():
    return aider("--no-stream")


def stream():
    return aider()


run(chat, stream)
