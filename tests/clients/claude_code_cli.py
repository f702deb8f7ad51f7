import json
import os
import subprocess
from pathlib import Path

from scene import BASE, MODEL, PROMPT, run


def stream():
    folder = Path.cwd() / f"claude-code-{MODEL}"
    folder.mkdir()
    env = {
        **os.environ,
        "HOME": str(folder),
        "ANTHROPIC_BASE_URL": BASE,
        "ANTHROPIC_AUTH_TOKEN": "unused",
        "ANTHROPIC_MODEL": MODEL,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    done = subprocess.run(
        ["claude", "--print", "--output-format", "json", PROMPT],
        env=env, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer["is_error"]:
        return {"error": f"exit code {done.returncode}", "message": answer["result"]}
    return {"text": answer["result"], "usage": answer["usage"]["output_tokens"]}


run(stream)
