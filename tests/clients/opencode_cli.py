import json
import os
import subprocess
from pathlib import Path

from scene import BASE, MODEL, PROMPT, run

SETTINGS = {
    "provider": {
        "reveille": {
            "npm": "@ai-sdk/openai-compatible",
            "name": "Reveille",
            "options": {"baseURL": f"{BASE}/v1", "apiKey": "unused", "timeout": 600000},
            "models": {MODEL: {"name": "Qwen"}},
        }
    },
    "small_model": f"reveille/{MODEL}",
    "autoupdate": False,
    "share": "disabled",
}


def stream():
    folder = Path.cwd() / f"opencode-{MODEL}"
    folder.mkdir()
    (folder / "opencode.json").write_text(json.dumps(SETTINGS))
    env = {**os.environ, "HOME": str(folder), "PWD": str(folder), "OPENCODE_DISABLE_MODELS_FETCH": "1"}
    command = ["opencode", "run", "--format", "json", "--model", f"reveille/{MODEL}", PROMPT]
    done = subprocess.run(
        command, env=env, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200
    )
    text = ""
    for line in done.stdout.splitlines():
        event = json.loads(line)
        if event["type"] == "text":
            text += event["part"]["text"]
        if event["type"] == "error":
            return {"error": event["error"]["name"], "message": event["error"]["data"]["message"]}
    return {"text": text} if text else {"error": f"exit code {done.returncode}", "message": done.stdout + done.stderr}


run(stream)
