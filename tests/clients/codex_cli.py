import json
import os
import subprocess
from pathlib import Path

from scene import BASE, MODEL, PROMPT, run


def responses():
    folder = Path.cwd() / f"codex-{MODEL}"
    folder.mkdir()
    (folder / "config.toml").write_text(
        f'model = "{MODEL}"\nmodel_provider = "reveille"\n\n[model_providers.reveille]\nname = "Reveille"\n'
        f'base_url = "{BASE}/v1"\nwire_api = "responses"\n'
    )
    env = {**os.environ, "HOME": str(folder), "CODEX_HOME": str(folder)}
    command = ["codex", "exec", "--json", "--skip-git-repo-check", "--sandbox", "read-only", PROMPT]
    done = subprocess.run(
        command, env=env, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200
    )
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    texts = [item["text"] for item in items if item["type"] == "agent_message"]
    if texts:
        usage = next(event["usage"] for event in events if event["type"] == "turn.completed")
        return {"text": texts[-1], "usage": usage["output_tokens"]}
    failures = [event["error"]["message"] for event in events if event["type"] == "turn.failed"]
    return {"error": f"exit code {done.returncode}", "message": (failures or [done.stdout + done.stderr])[-1]}


run(responses)
