//! What the demo plays on: `reveille up` with data of its own, and a backend that only its wake recipe starts.

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use reveille_tests::{Exit, Facts, Folder, Launch, Process, http_client, nats_server, program};
use serde_json::Value;
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// The public name of the one model.
pub const MODEL: &str = "demo";
/// The one LLM.
pub const LLM: &str = "demo-box/demo";
/// The one provider.
pub const PROVIDER: &str = "demo-box/stand-in";

/// The usual port, taken when it is free.
const PORT: u16 = 8420;
const PUBLISHED_WITHIN: Duration = Duration::from_secs(60);
const ENDS_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How many lines of the log are shown when something goes wrong.
const LOG_LINES_SHOWN: usize = 40;

/// `reveille up`, running. Dropping it ends everything, however it is dropped.
#[derive(Debug)]
pub struct Stage {
    up: Process,
    api: SocketAddr,
    backend: SocketAddr,
    folder: Folder,
}

impl Stage {
    /// Starts it and doesn't wait.
    pub fn set() -> Result<Self> {
        let folder = Folder::new();
        let (api, backend) = (usual_or_free_port()?, free_port(0)?);
        let config = folder.path().join("reveille.toml");
        fs::write(&config, config_for(backend)).context("cannot write the demo's config")?;
        let up = Launch::new(program("reveille"), folder.path().join("up.log"))
            .arg("up")
            .arg("--config")
            .arg(&config)
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .args(["--listen", &api.to_string()])
            .env("REVEILLE_NATS_SERVER", nats_server())
            .start();
        Ok(Self {
            up,
            api,
            backend,
            folder,
        })
    }

    pub fn api_url(&self) -> String {
        format!("http://{}", self.api)
    }

    pub fn backend_url(&self) -> String {
        format!("http://{}", self.backend)
    }

    /// Waits until the LLM is listed as hibernating, and returns its row.
    pub async fn until_published(&self) -> Result<Value> {
        let started = Instant::now();
        while started.elapsed() < PUBLISHED_WITHIN {
            ensure!(self.up.is_running(), "`reveille up` ended at its start");
            let rows = self.rows("/reveille/v1/llms").await.unwrap_or_default();
            if let Some(row) = rows
                .into_iter()
                .find(|row| row["name"] == LLM && row["status"] == "hibernating")
            {
                return Ok(row);
            }
            sleep(LOOK_EVERY).await;
        }
        bail!(
            "{LLM} was not published as hibernating within {} s",
            PUBLISHED_WITHIN.as_secs()
        )
    }

    /// Nothing may answer in the backend's place.
    pub fn backend_does_not_listen(&self) -> Result<()> {
        ensure!(
            TcpStream::connect_timeout(&self.backend, Duration::from_secs(1)).is_err(),
            "something listens at {} before anybody has woken the backend",
            self.backend
        );
        Ok(())
    }

    /// The rows of one of the API's lists.
    pub async fn rows(&self, path: &str) -> Result<Vec<Value>> {
        let answer = http_client()
            .get(format!("{}{path}", self.api_url()))
            .send()
            .await?;
        let mut page: Value = answer.error_for_status()?.json().await?;
        match page["data"].take() {
            Value::Array(rows) => Ok(rows),
            _ => bail!("{path} answered with something that is no list"),
        }
    }

    /// Subscribes to the accepted commits at the server that `reveille up` runs, with the key that it has made for
    /// subscribers.
    pub async fn listen_to_facts(&self) -> Result<Facts> {
        let port = fs::read_to_string(self.folder.path().join("data/nats-port"))?;
        let url = format!("nats://127.0.0.1:{}", port.trim());
        let seed = fs::read_to_string(self.folder.path().join("data/hub-keys/subscriber.nk"))?;
        let client = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned())
            .connect(&url)
            .await
            .with_context(|| format!("cannot subscribe at {url}"))?;
        Ok(Facts::listen(client).await)
    }

    pub fn what_to_try(&self) -> String {
        let (api, reveille) = (self.api_url(), program("reveille"));
        let reveille = shortest(&reveille);
        format!(
            "It stays up. In another terminal:\n\n  \
             curl -N {api}/v1/chat/completions -H 'content-type: application/json' \\\n    \
             -d '{{\"model\": \"{MODEL}\", \"stream\": true, \"messages\": [{{\"role\": \"user\", \"content\": \"hello\"}}]}}'\n  \
             {reveille} llms --api {api}\n  \
             {reveille} sleep {PROVIDER} --api {api}     then ask again: it is woken again\n  \
             {reveille} events --follow --api {api}\n\n\
             Ctrl-C ends it."
        )
    }

    /// Resolves when `reveille up` has ended by itself.
    pub async fn ended(&self) {
        while self.up.is_running() {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Ends everything in order; it must end well and leave nothing that listens.
    pub async fn clear(self) -> Result<()> {
        let exit = self.up.stop(ENDS_WITHIN).await;
        if exit != Exit::Code(0) {
            return Err(self.with_log(&anyhow!("`reveille up` did not end well: {exit:?}")));
        }
        self.backend_does_not_listen().context("after the end")
    }

    /// An error with the end of the log, which nobody sees otherwise.
    pub fn with_log(&self, error: &Error) -> Error {
        let log = self.up.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        anyhow!(
            "{error:#}\n\nthe end of what `reveille up` said:\n{}",
            tail.join("\n")
        )
    }
}

fn config_for(backend: SocketAddr) -> String {
    let stand_in = program("stand-in-llm");
    let args = ["--listen", &backend.to_string(), "--boot-delay-ms", "1500"];
    let args = args.iter().chain(&["--tokens", "24", "--token-delay-ms", "60"]);
    format!(
        "[agent]\nname = \"demo-box\"\n\n\
         [[provider]]\nname = \"stand-in\"\nbase_url = \"http://{backend}\"\n\
         models = [{{ id = \"stand-in\", as = \"{MODEL}\" }}]\n\n\
         [provider.wake]\ntype = \"command\"\nrun = \"serve\"\ncommand = {:?}\nargs = {:?}\nmax_wait = \"30s\"\n",
        stand_in.display().to_string(),
        args.collect::<Vec<_>>(),
    )
}

fn usual_or_free_port() -> Result<SocketAddr> {
    free_port(PORT).or_else(|_| free_port(0))
}

fn free_port(port: u16) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context("there is no free port")?;
    Ok(listener.local_addr()?)
}

/// A program's path as a person would type it here.
fn shortest(program: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    program
        .strip_prefix(here)
        .unwrap_or(program)
        .display()
        .to_string()
}
