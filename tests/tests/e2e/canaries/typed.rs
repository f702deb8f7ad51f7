//! What people type, with configs, addresses and tokens that are refused.

use super::hub::Hub;
use std::fs;

/// Runs them all.
pub async fn commands(hub: &Hub, key: &str) {
    let plant = |place| hub.planted.plant(place);
    let provider = |line: String| {
        format!("[agent]\nname = \"a\"\n[[provider]]\nname = \"p\"\nmodels = [\"m\"]\n{line}\n")
    };
    let url = "base_url = \"http://127.0.0.1:1\"";
    let configs = [
        provider(format!(
            "base_url = \"http://user:{}@127.0.0.1:1\"",
            plant("password in base_url")
        )),
        provider(format!(
            "base_url = \"http://127.0.0.1:1?key={}\"",
            plant("query in base_url")
        )),
        provider(format!("base_url = \"file:///{}\"", plant("file as base_url"))),
        provider(format!(
            "{url}\napi_key = \"{}\\n\"",
            plant("api_key with a line break")
        )),
        provider(format!(
            "{url}\napi_key = [\"{}\"]",
            plant("api_key that is a list")
        )),
        provider(format!(
            "{url}\nanswer_timeout = \"{}\"",
            plant("duration that is none")
        )),
        provider(format!(
            "{url}\n[provider.wake]\ntype = \"http\"\nurl = \"http://u:{}@127.0.0.1\"",
            plant("password of a recipe")
        )),
        provider(format!(
            "{url}\n[provider.wake]\ntype = \"http\"\nurl = \"http://127.0.0.1\"\nheaders = {{ a = \"{}\\u0001\" }}",
            plant("header that is none")
        )),
        provider(format!(
            "{url}\n[provider.wake]\ntype = \"command\"\ncommand = \"relative/{}\"",
            plant("program that is relative")
        )),
        provider(format!(
            "{url}\n[provider.wake]\ntype = \"{}\"",
            plant("type of no recipe")
        )),
        format!(
            "[agent]\nname = \"a\"\nnats = \"nats://user:{}@127.0.0.1:4222\"\n",
            plant("password in nats")
        ),
        format!(
            "[agent]\nname = \"a\"\nnats = \"nats://192.0.2.1:4222/{}\"\n",
            plant("path in nats")
        ),
        format!(
            "[agent]\nname = \"{}\"\nname = \"b\"\n",
            plant("name that is there twice")
        ),
        format!("[agent]\nname = \"a\"\n{}", plant("line that is no TOML")),
    ];
    let file = hub.folder.join("machine/refused.toml");
    let shown = file.display().to_string();
    for config in configs {
        fs::write(&file, config).expect("written");
        hub.run(&["config", "check", &shown], &[], 2).await;
    }
    fs::remove_file(&file).expect("removed");

    let agent = hub.agent_config.display().to_string();
    let variables = hub.variables();
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    hub.run(&["config", "check", &agent], &variables, 0).await;
    hub.run(&["config", "show", "--origin", &agent], &variables, 0)
        .await;
    hub.run(&["recipe", "test", "failing", "--config", &agent], &variables, 1)
        .await;
    let data = hub.folder.join("machine/data").display().to_string();
    hub.run(&["logs", "--data-dir", &data], &[], 0).await;
    let password = plant("password of a database that is not there");
    let nowhere = format!("postgres://reveille:{password}@127.0.0.1:1/{}", hub.marker);
    let nats = format!("nats://user:{}@127.0.0.1:1", plant("password in --nats"));
    let doctor = ["doctor", "--config", &agent];
    hub.run(
        &doctor,
        &[
            &variables[..],
            &[
                ("REVEILLE_DATABASE_URL", &nowhere),
                ("REVEILLE_NATS_URL", &nats),
                ("REVEILLE_API_KEY", key),
            ],
        ]
        .concat(),
        1,
    )
    .await;
    let there = hub.database.url();
    for (says, words, database, nats) in [
        (
            "the database or the journal is unavailable",
            &["projector"][..],
            nowhere.as_str(),
            hub.nats_url.as_str(),
        ),
        ("can't reach NATS", &["projector"], there, &nats),
        (
            "the database or the journal is unavailable",
            &["rows", "rebuild"],
            &nowhere,
            &hub.nats_url,
        ),
    ] {
        let variables = [("REVEILLE_DATABASE_URL", database), ("REVEILLE_NATS_URL", nats)];
        hub.run_until(says, words, &variables).await;
    }
    hub.run(
        &["journal", "export", "--from-postgres", "-"],
        &[("REVEILLE_DATABASE_URL", &nowhere)],
        1,
    )
    .await;
    hub.run(&["llms", "-o", "json"], &[("REVEILLE_API_KEY", key)], 0)
        .await;
    hub.run(
        &["llms"],
        &[("REVEILLE_API_KEY", &format!("rv_{}", plant("key that is none")))],
        1,
    )
    .await;
    hub.run(&["events", "-o", "jsonl"], &[("REVEILLE_API_KEY", &hub.root)], 0)
        .await;
    hub.run(&["key", "list"], &[("REVEILLE_API_KEY", &hub.root)], 0)
        .await;
    hub.run(
        &["join", "--config", &shown],
        &[(
            "REVEILLE_AGENT_TOKEN",
            &format!("rvt_{}", plant("token that is none")),
        )],
        2,
    )
    .await;
}
