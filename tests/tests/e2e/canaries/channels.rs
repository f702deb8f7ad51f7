//! Everything that came out of a hub, by where it came out.

use super::{hub::Hub, may_be_said, reaches_a_backend, scanner::Channel};
use reveille_tests::{descendants, wait_until};
use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt};

use crate::scene::SOON;

/// What is in the output of the command that fails.
pub fn printed_by_the_failing_command() -> Vec<&'static str> {
    vec![
        "output of a failing command",
        "argument of a command",
        "variable of a command",
    ]
}

impl Hub {
    /// Everything that came out anywhere.
    pub async fn channels(&self) -> Vec<Channel> {
        let mut channels = vec![];
        self.logs(&mut channels).await;
        self.said_over_nats(&mut channels);
        channels.push(self.channel("journal", self.journal().await));
        channels.push(self.channel("rows", self.rows().await));
        for (allowed, bytes) in self.answers.lock().expect("not poisoned").iter() {
            let name = if allowed.is_empty() {
                "HTTP answers".to_owned()
            } else {
                format!("answers to whoever knows {allowed:?}")
            };
            let mut channel = self.channel(&name, bytes.clone());
            if !allowed.is_empty() {
                channel.marker = String::new();
            }
            channel.allowed.clone_from(allowed);
            channels.push(channel);
        }
        let mut backend = self.channel(
            "requests to a backend",
            self.heard.lock().expect("not poisoned").clone(),
        );
        backend.allowed = reaches_a_backend();
        channels.push(backend);
        channels.push(self.command_lines());
        channels.push(self.environments());
        let mut files = self.channel("files", self.files());
        files.allowed = vec!["heartbeat that is none"];
        channels.push(files);
        let mut output = self.channel("kept output", self.kept_output());
        // Only the machine's owner reads it, who is told what to install and what a server says against a recipe.
        output.allowed = vec![
            "output of a served command",
            "path of a program",
            "body that refuses a recipe",
        ];
        output.allowed.extend(printed_by_the_failing_command());
        channels.push(output);
        channels
    }

    fn channel(&self, name: &str, bytes: Vec<u8>) -> Channel {
        Channel {
            name: name.to_owned(),
            bytes,
            marker: self.marker.clone(),
            allowed: vec![],
        }
    }

    async fn logs(&self, channels: &mut Vec<Channel>) {
        // What Postgres is asked in vain it logs.
        let statement = format!("SELECT '{}' FROM nowhere", self.marker);
        let refused = sqlx::raw_sql(&statement)
            .execute(&mut self.database.connect().await)
            .await;
        assert!(refused.is_err());
        let agent = self.agent.as_ref().expect("the agent runs");
        let postgres = self.postgres.process();
        wait_until("Postgres logged it", SOON, async || {
            postgres.log().contains(&self.marker).then_some(())
        })
        .await;
        for (name, process) in [
            ("API", &self.api),
            ("projector", &self.projector),
            ("agent", agent),
            ("NATS", &self.nats),
            ("Postgres", postgres),
        ] {
            let mut channel = self.channel(&format!("log of the {name}"), process.log().into_bytes());
            if name == "agent" {
                // The last lines of a command that failed, which program its owner has to install, and why a server refused.
                channel.allowed = printed_by_the_failing_command();
                channel.allowed.push("path of a program");
                channel.allowed.push("body that refuses a recipe");
            }
            channels.push(channel);
        }
        let mut commands = self.channel("output of commands", vec![]);
        for command in self.commands.lock().expect("not poisoned").iter() {
            commands.bytes.extend(command.log().into_bytes());
        }
        // Whoever makes a token is shown it, and whoever has a config where its recipes lead, and what their commands printed
        // and their servers answered.
        commands.allowed = vec![
            "token",
            "path of a recipe that reaches nobody",
            "path of a program",
            "body that refuses a recipe",
            "output of a served command",
        ];
        commands.allowed.extend(printed_by_the_failing_command());
        channels.push(commands);
    }

    fn said_over_nats(&self, channels: &mut Vec<Channel>) {
        let mut by_kind: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for said in self.overheard.lock().expect("not poisoned").iter() {
            let kind: Vec<_> = said.subject.split('.').take(2).collect();
            by_kind.entry(kind.join(".")).or_default().extend(&said.bytes);
        }
        for kind in [
            "control",
            "events",
            "facts",
            "heartbeats",
            "infer",
            "orders",
            "replies",
            "wakes",
        ] {
            let bytes = by_kind.remove(&format!("reveille.{kind}")).unwrap_or_default();
            let mut channel = self.channel(&format!("messages on reveille.{kind}"), bytes);
            channel.allowed = may_be_said(kind).to_vec();
            channels.push(channel);
        }
        let mut rest = self.channel("other messages", by_kind.into_values().flatten().collect());
        rest.allowed = may_be_said("").to_vec();
        channels.push(rest);
    }

    async fn journal(&self) -> Vec<u8> {
        let admin = self.connect(&self.keys.join("admin.nk"), "_INBOX.admin").await;
        let commits = reveille_tests::read_journal(&admin).await;
        assert!(commits.len() > 10, "{} commits", commits.len());
        let shown = commits.iter().map(|commit| {
            [
                format!("{} {:?} ", commit.subject, commit.headers).into_bytes(),
                commit.payload.to_vec(),
            ]
            .concat()
        });
        shown.collect::<Vec<_>>().concat()
    }

    /// Every row of every table, as text.
    async fn rows(&self) -> Vec<u8> {
        let mut connection = self.database.connect().await;
        let tables = "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables \
                      WHERE table_schema NOT IN ('pg_catalog', 'information_schema')";
        let tables: Vec<String> = sqlx::query_scalar(tables)
            .fetch_all(&mut connection)
            .await
            .expect("tables");
        assert!(tables.len() >= 5, "{tables:?}");
        let mut shown = vec![];
        for table in tables {
            let statement = format!("SELECT t::text FROM {table} t");
            let rows: Vec<String> = sqlx::query_scalar(&statement)
                .fetch_all(&mut connection)
                .await
                .expect("rows");
            shown.extend(format!("{table}\n{}\n", rows.join("\n")).into_bytes());
        }
        shown
    }

    fn command_lines(&self) -> Channel {
        let mut bytes = vec![];
        for process in fs::read_dir("/proc").expect("processes").flatten() {
            // Somebody else's may end meanwhile.
            bytes.extend(fs::read(process.path().join("cmdline")).unwrap_or_default());
            bytes.push(b'\n');
        }
        let mut channel = self.channel("command lines", bytes);
        // Whoever gives a command an argument shows it to everybody on the machine.
        channel.allowed = vec!["argument of a served command", "output of a served command"];
        channel
    }

    /// What a failing command saw, and what everything has that runs below the agent.
    fn environments(&self) -> Channel {
        let mut bytes = fs::read(self.environment_file()).expect("the command ran");
        let agent = self.agent.as_ref().expect("the agent runs").pid();
        let below = descendants(agent);
        assert!(
            below.len() >= 2,
            "a shim and a served backend run below the agent: {below:?}"
        );
        for process in below {
            bytes.extend(fs::read(format!("/proc/{process}/environ")).unwrap_or_default());
        }
        let mut channel = self.channel("environments of children", bytes);
        channel.allowed = vec!["variable of a command", "variable of a served command"];
        channel
    }

    /// What commands printed, as the agent and `recipe test` have kept it.
    fn kept_output(&self) -> Vec<u8> {
        let folders = ["machine/data/agent", "data-of-commands/agent"].map(|folder| self.folder.join(folder));
        let entries = folders
            .iter()
            .flat_map(|folder| fs::read_dir(folder).expect("a folder"));
        let files = entries.map(|entry| entry.expect("a file").path());
        let output = files.filter(|file| file.extension().is_some_and(|end| end == "output"));
        output.flat_map(|file| fs::read(file).expect("read")).collect()
    }

    /// Everything that was left in a file, but for those that are there to hold a secret.
    fn files(&self) -> Vec<u8> {
        let mut bytes = vec![];
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder").flatten() {
                let path = entry.path();
                let holds_a_secret = path
                    .extension()
                    .is_some_and(|end| ["nk", "key", "toml", "sh", "output"].iter().any(|of| end == *of));
                if path.is_dir() {
                    folders.push(path);
                } else if !holds_a_secret {
                    bytes.extend(format!("{}\n", path.display()).into_bytes());
                    bytes.extend(fs::read(&path).unwrap_or_default());
                } else if !path.ends_with("failing.sh") {
                    let mode = fs::metadata(&path).expect("a file").permissions().mode();
                    assert_eq!(mode & 0o077, 0, "{} is readable by others", path.display());
                }
            }
        }
        bytes
    }
}
