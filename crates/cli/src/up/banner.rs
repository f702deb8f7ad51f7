//! The banner that `reveille up` prints when everything runs.

use crate::{
    client::{
        ApiClient, Row, field, moment,
        table::{PROVIDERS, table},
    },
    data_dir,
    enroll::Token,
    failure::Failure,
    logging::{self, notice},
};
use jiff::tz::TimeZone;
use reqwest::Method;
use reveille_agent::{
    config::{Config, ProviderConfig, WakeConfig},
    listeners::LocalPort,
    local_checks::mistakes,
    shell,
};
use reveille_api::keys::SecretKey;
use serde_json::json;
use std::{
    fmt::Write as _,
    io::{self, IsTerminal},
    iter,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use url::Url;

/// How long the API may take before a line says that it isn't ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait for providers to be registered before showing the banner without them.
const REGISTERED_WITHIN: Duration = Duration::from_secs(15);
/// The name of the first machine that joins, unless its owner chooses one.
const SUGGESTED: &str = "gpu-box";
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The check of `/readyz` that fails until this run's agent has published its providers.
const OWN_AGENT: &str = "agent";
/// How long to wait for Postgres, whose tables a first start creates, before the banner says that it can't be reached.
const DATABASE_WITHIN: Duration = Duration::from_secs(3);
const IN_POSTGRES: &str = "in Postgres";
const NO_DATABASE: &str = "in Postgres, which can't be reached: lists and history are unavailable, requests still work\n          \
                           (`reveille doctor --database-url URL` says why)";

/// What is running, and where.
#[derive(Debug)]
pub struct Banner {
    client: ApiClient,
    /// The API's URL, without a path.
    api: String,
    /// The root key's file, if keys are required.
    root_key: Option<PathBuf>,
    nats: String,
    lists: &'static str,
    /// The authority of the API's certificate, if we made that ourselves.
    own_ca: Option<PathBuf>,
    /// The API's URL for other machines, if it listens at all addresses.
    elsewhere: Option<String>,
    /// Where agents of other machines reach this hub, if it listens for them.
    agents: Option<Vec<String>>,
    /// Whether it is a person who reads this.
    in_terminal: bool,
    /// The command with which a machine joins, and until when it works.
    join: Option<(Token, String)>,
    warnings: Vec<String>,
    /// The config of this run's agent.
    agent: Option<Config>,
    /// The journal's last commit before our agent started.
    before: u64,
}

impl Banner {
    /// `root_key` is the root key's file, if keys are required.
    pub fn new(
        api: String,
        nats: String,
        agents: Option<Vec<String>>,
        database: bool,
        root: &SecretKey,
        root_key: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            client: ApiClient::local(&api, Some(root))?,
            api,
            root_key,
            nats,
            lists: if database { IN_POSTGRES } else { "in memory" },
            agents,
            in_terminal: io::stderr().is_terminal(),
            elsewhere: None,
            own_ca: None,
            join: None,
            warnings: vec![],
            agent: None,
            before: 0,
        })
    }

    /// Says that the API's certificate is from this authority of our own.
    pub fn trusts(&mut self, authority: Option<PathBuf>) {
        self.own_ca = authority;
    }

    /// Says at which URL other machines reach the API.
    pub fn is_reached_at(&mut self, elsewhere: Option<String>) {
        self.elsewhere = elsewhere;
    }

    /// Says that machines which joined an earlier run don't reach this one, if it listens for none.
    pub fn misses_agents(&mut self, data_dir: &Path) {
        if self.agents.is_none() && data_dir::authority(data_dir).is_some() {
            self.warnings.push(
                "an earlier run listened for agents of other machines, and this one doesn't: `reveille up --agents` lets them in"
                    .to_owned(),
            );
        }
    }

    /// Waits until the API is ready; prints a line if that takes long.
    pub async fn api_is_ready(&mut self) {
        if !until(READY_WITHIN, async || self.waits_only_for_agent().await).await {
            logging::all();
            notice("The API isn't ready yet; the log says why. Still trying.");
            until(Duration::MAX, async || self.waits_only_for_agent().await).await;
        }
        if let Ok(page) = self.client.providers().await {
            self.before = page.applied;
        }
    }

    /// Creates the token that the banner shows in a terminal. Elsewhere what is printed is kept, perhaps where others read it. Without
    /// an address, a token would lead nowhere.
    pub async fn invite(&mut self) {
        let is_reached = self
            .agents
            .as_ref()
            .is_some_and(|addresses| !addresses.is_empty());
        if !is_reached || !self.in_terminal {
            return;
        }
        match self.token().await {
            Ok(token) => self.join = Some(token),
            Err(failure) => {
                warn!(%failure, "can't create a token; `reveille agent token NAME` creates one");
            }
        }
    }

    async fn token(&self) -> Result<(Token, String), Failure> {
        let agents = self.client.rows("/reveille/v1/agents", &[], usize::MAX).await?;
        let own = self.agent.as_ref().map(|config| config.agent.name.as_str());
        let is_taken = |name: &str| {
            let joined = |row: &Row| field(row, "agent") == name && row["key"].is_string();
            own == Some(name) || agents.iter().any(joined)
        };
        let name = suggested(is_taken);
        let path = format!("/reveille/v1/agents/{name}/tokens");
        let issued = self.client.post(&path, &json!({})).await?;
        let until = moment(&issued["expires_at_ms"], &TimeZone::system());
        Ok((Token::of(None, &Url::parse(&self.api)?, &issued)?, until))
    }

    /// Announces that the config's providers are about to be registered, and looks for what the owner must do about them.
    pub async fn expect(&mut self, config: &Config) {
        self.agent = Some(config.clone());
        for provider in &config.providers {
            let found = mistakes(provider).into_iter().chain(runs_already(provider).await);
            self.warnings
                .extend(found.map(|found| format!("{}: {found}", provider.name)));
        }
    }

    /// Whether the API has all it needs, except for our agent, which starts after it.
    async fn waits_only_for_agent(&self) -> bool {
        let request = self.client.request(Method::GET, "/readyz");
        let Ok(answer) = self.client.body(request).await else {
            return false;
        };
        let checks = answer["checks"].as_object();
        checks.is_some_and(|checks| {
            checks
                .iter()
                .all(|(check, passed)| check == OWN_AGENT || *passed == true)
        })
    }

    /// Waits until the config's providers are registered, but not for ever, and returns all providers. Cancels `own_agent` then:
    /// requests don't wait for Postgres, which is looked for afterwards.
    pub async fn providers(&mut self, own_agent: &CancellationToken) -> Vec<Row> {
        let mut providers = vec![];
        until(REGISTERED_WITHIN, async || {
            if let Ok(page) = self.client.providers().await {
                providers = page.data;
            }
            self.is_complete(&providers)
        })
        .await;
        own_agent.cancel();
        if self.lists == IN_POSTGRES && !until(DATABASE_WITHIN, async || self.has_lists().await).await {
            self.lists = NO_DATABASE;
        }
        providers
    }

    /// Prints the banner.
    pub fn show(&self, providers: &[Row]) {
        notice(self.text(providers).trim_end());
    }

    async fn has_lists(&self) -> bool {
        let asked = self.client.request(Method::GET, "/reveille/v1/status");
        let answer = self.client.json::<Row>(asked).await;
        answer.is_ok_and(|status| status["rows"]["applied"].is_u64())
    }

    fn text(&self, providers: &[Row]) -> String {
        let api = &self.api;
        let keys = match &self.root_key {
            None => "any API key will do".to_owned(),
            Some(file) => format!(
                "clients need a key: `reveille key create`\n          (the root key is in {})",
                file.display()
            ),
        };
        let mut text =
            format!("\nreveille is up\n\n  API     {api}/v1   point OpenAI clients here; {keys}\n");
        if let Some(elsewhere) = &self.elsewhere {
            let _ = writeln!(text, "          {elsewhere}/v1   from other machines");
        }
        if api.starts_with("https:") && self.own_ca.is_none() {
            text += "          (use a host name from the certificate instead of this address)\n";
        }
        if let Some(ca) = &self.own_ca {
            let _ = writeln!(
                text,
                "          (clients have to trust the certificate {})",
                ca.display()
            );
        } else if self.agents.is_some() && api.starts_with("http:") && self.root_key.is_none() {
            text += "          (`--listen 0.0.0.0:8420` opens it to other machines, with HTTPS and keys)\n";
        }
        let agent = match &self.agent {
            None => "none: no reveille.toml in this folder (--config FILE)".to_owned(),
            Some(config) if config.providers.is_empty() => {
                format!("{}, whose config has no providers", config.agent.name)
            }
            Some(config) => config.agent.name.to_string(),
        };
        let _ = write!(
            text,
            "  NATS    {}\n  lists   {}\n  agent   {agent}\n",
            self.nats, self.lists
        );
        if !self.is_complete(providers) {
            text += "          some of its providers aren't registered yet; the log says why\n";
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "  warning {warning}");
        }
        if !providers.is_empty() {
            let _ = write!(text, "\n{}\n", indented(&table(PROVIDERS, providers)));
        }
        let mut served = providers.iter().filter(|row| row["status"] != "inactive");
        if let Some(model) = served.find_map(|row| row["models"][0].as_str()) {
            let body =
                json!({"model": model, "messages": [{"role": "user", "content": "hello"}]}).to_string();
            let body = shell::word(&body);
            let key = match &self.root_key {
                None => "",
                Some(_) => " -H \"authorization: Bearer $KEY\"",
            };
            let trust = match &self.own_ca {
                Some(ca) => format!(" --cacert {}", shell::path(ca)),
                None => String::new(),
            };
            let _ = write!(
                text,
                "\n  curl{trust} {api}/v1/chat/completions{key} -H 'content-type: application/json' \\\n    -d {body}\n"
            );
        }
        text += &self.joining();
        text += "\n  Press Ctrl-C to stop\n\n";
        text
    }

    /// How another machine joins.
    fn joining(&self) -> String {
        let Some(agents) = &self.agents else {
            return String::new();
        };
        if agents.is_empty() {
            return "\n  This machine has no address at which others reach it: connect it to a network, or name one with --host\n"
                .to_owned();
        }
        let agents = agents.join(", ");
        let Some((token, until)) = &self.join else {
            return format!(
                "\n  Agents of other machines reach this hub at {agents}\n  `reveille agent token NAME` prints the line with which one joins\n"
            );
        };
        format!(
            "\n  To add a machine with backends, run this there. It works once, until {until}; {agent} is the name it gets:\n\n\
             reveille join {token}\n\n  \
             For another name, or the next machine: reveille agent token NAME\n  \
             Agents reach this hub at {agents}\n",
            agent = token.join.agent
        )
    }

    /// Whether this run's agent has registered all of its providers. Registrations of earlier runs don't count.
    fn is_complete(&self, providers: &[Row]) -> bool {
        let Some(config) = &self.agent else { return true };
        let ours = providers
            .iter()
            .filter(|row| field(row, "agent") == config.agent.name.as_str())
            .filter(|row| row["updated_seq"].as_u64() > Some(self.before));
        ours.count() >= config.providers.len()
    }
}

/// The name that a machine gets if nobody chooses one: the first that is free.
fn suggested(is_taken: impl Fn(&str) -> bool) -> String {
    let numbered = (2..).map(|number| format!("{SUGGESTED}-{number}"));
    let mut names = iter::once(SUGGESTED.to_owned()).chain(numbered);
    names.find(|name| !is_taken(name)).unwrap_or_default()
}

/// That an idle backend won't be put to sleep, since somebody else has started it, and what to do.
async fn runs_already(provider: &ProviderConfig) -> Option<String> {
    provider.sleep.as_ref()?.idle_after?;
    provider.wake.as_ref().filter(|wake| WakeConfig::serves(wake))?;
    let taken = LocalPort::of(&provider.base_url)?.taken().await?;
    Some(format!(
        "{taken}, and Reveille ends only what it has started itself, so `idle_after` has no effect: end that program once (a \
         service with `systemctl disable --now`), and requests start it from then on"
    ))
}

fn indented(lines: &str) -> String {
    let lines: Vec<_> = lines.lines().map(|line| format!("  {line}")).collect();
    lines.join("\n")
}

/// Waits for a condition; whether it came true in time.
async fn until(within: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if condition().await {
            return true;
        }
        if started.elapsed() >= within {
            return false;
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
impl Banner {
    /// A banner in a terminal for a hub whose API is ready, publishes nothing, and answers neither the invitation nor what is in
    /// Postgres. The paths of what it doesn't answer come from the receiver.
    pub async fn of_an_api_that_answers_no_invitation() -> (Self, tokio::sync::mpsc::Receiver<String>) {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap());
        let (sender, unanswered) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            let mut held = vec![];
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).await.unwrap_or(0) > 0 {}
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let body = match path.split('?').next() {
                    Some("/readyz") => json!({"checks": {}}),
                    Some("/reveille/v1/providers") => json!({"data": [], "applied": 1}),
                    _ => {
                        let _ = sender.send(path).await;
                        held.push(stream);
                        continue;
                    }
                };
                let body = body.to_string();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nx-request-id: 1\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let agents = Some(vec!["192.0.2.1:8422".to_owned()]);
        let root = SecretKey::generate().unwrap();
        let mut banner = Self::new(api, "nats://here".to_owned(), agents, true, &root, None).unwrap();
        banner.in_terminal = true;
        (banner, unanswered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banner(required: bool) -> Banner {
        // Another test may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let api = "http://127.0.0.1:8420".to_owned();
        let nats = "nats://hub.example (yours)".to_owned();
        let root = SecretKey::generate().unwrap();
        let file = required.then(|| "/data/root.key".into());
        let mut banner = Banner::new(api, nats, None, false, &root, file).unwrap();
        let text =
            "[agent]\nname = 'gpu-box'\n[[provider]]\nname = 'vllm'\nbase_url = 'http://127.0.0.1:8000'\n";
        banner.agent = Some(Config::parse(text, "reveille.toml", &|_| None).unwrap());
        banner.before = 7;
        banner
    }

    fn provider(updated_seq: u64) -> Row {
        json!({"id": "gpu-box/vllm", "agent": "gpu-box", "status": "hibernating", "models": ["qwen3-8b"],
            "wakes": {"requested": 0}, "last_wakes": [], "updated_seq": updated_seq})
    }

    #[test]
    fn the_banner_shows_what_runs_where_and_what_to_try() {
        insta::assert_snapshot!(banner(false).text(&[provider(8)]));
    }

    #[test]
    fn the_line_to_paste_sends_any_model_name_and_runs_nothing_in_it() {
        for model in [
            "qwen3-8b",
            "x'; touch PWNED; '",
            "$(touch PWNED) `touch PWNED`",
            "a \\ \"b\" !! \n\u{202e}evil 模型",
        ] {
            for required in [false, true] {
                let mut row = provider(8);
                row["models"] = json!([model]);
                let text = banner(required).text(&[row]);
                // As it is printed.
                let text = crate::terminal::lines(&text);
                let line = &text[text.find("  curl ").expect("a line")..];
                let line = &line[..line.find("\n\n").expect("its end")];
                let script = format!("KEY=key; curl() {{ printf '%s\\0' \"$@\"; }}; {line}");
                let folder = tempfile::tempdir().unwrap();
                let mut shell = std::process::Command::new("sh");
                let done = shell.args(["-c", &script]).current_dir(folder.path()).output();
                let said = String::from_utf8(done.unwrap().stdout).unwrap();
                let body = said.trim_end_matches('\0').rsplit('\0').next().unwrap();
                let body: Row = serde_json::from_str(body).expect(&said);
                assert_eq!(body["model"], model, "{line}");
                assert_eq!(said.matches('\0').count(), if required { 7 } else { 5 }, "{line}");
                assert!(folder.path().read_dir().unwrap().next().is_none(), "{line}");
            }
        }
    }

    #[test]
    fn when_keys_are_required_the_banner_says_how_to_create_one_and_shows_none() {
        let text = banner(true).text(&[provider(8)]);
        assert!(!text.contains("rv_"), "{text}");
        insta::assert_snapshot!(text);
    }

    #[tokio::test]
    async fn an_idle_backend_that_somebody_else_has_started_is_told_with_what_to_do() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", taken.local_addr().unwrap());
        let expect = async |run: &str| {
            let text = format!(
                "[[provider]]\nname = 'ollama'\nbase_url = '{url}'\nmodels = ['m']\n[provider.wake]\ntype = 'command'\n\
                 command = 'sh'\nrun = '{run}'\n[provider.sleep]\nidle_after = '15m'\n{}",
                if run == "serve" {
                    ""
                } else {
                    "type = 'command'\ncommand = 'true'\n"
                }
            );
            let mut banner = banner(false);
            banner
                .expect(&Config::parse(&text, "reveille.toml", &|_| None).unwrap())
                .await;
            banner.text(&[])
        };
        let said = expect("serve").await;
        let own = format!("(process {}), and Reveille ends only", std::process::id());
        for part in [
            "\n  warning ollama: port ",
            &own,
            "`idle_after` has no effect: end that program once",
        ] {
            assert!(said.contains(part), "{part} is not in:\n{said}");
        }
        assert!(
            !expect("once").await.contains("warning"),
            "its recipe puts it to sleep"
        );
        let address = taken.local_addr().unwrap();
        drop(taken);
        // A child that another test is starting has it until it runs its program.
        while tokio::net::TcpStream::connect(address).await.is_ok() {}
        assert!(!expect("serve").await.contains("warning"), "nothing runs");
    }

    #[test]
    fn an_api_at_all_addresses_is_shown_with_one_that_other_machines_reach() {
        let mut banner = banner(true);
        assert!(!banner.text(&[]).contains("from other machines"));
        banner.is_reached_at(Some("https://192.0.2.1:8420".to_owned()));
        let text = banner.text(&[]);
        assert!(
            text.contains("\n          https://192.0.2.1:8420/v1   from other machines\n"),
            "{text}"
        );
    }

    #[test]
    fn machines_that_joined_an_earlier_run_are_missed_unless_it_listens_for_them() {
        let folder = tempfile::tempdir().unwrap();
        let said = |agents: Option<Vec<String>>| {
            let mut banner = banner(false);
            banner.agents = agents;
            banner.misses_agents(folder.path());
            banner.text(&[])
        };
        assert!(!said(None).contains("warning"));
        let tls = folder.path().join(data_dir::AGENTS_TLS);
        std::fs::create_dir(&tls).unwrap();
        std::fs::write(tls.join("ca.pem"), "").unwrap();
        assert!(said(None).contains("warning an earlier run listened for agents"));
        assert!(!said(Some(vec![])).contains("warning"));
    }

    #[test]
    fn the_line_to_paste_trusts_an_authority_of_our_own() {
        let mut banner = banner(true);
        banner.api = "https://127.0.0.1:8420".to_owned();
        banner.trusts(Some("/a folder/ca.pem".into()));
        let text = banner.text(&[provider(8)]);
        assert!(
            text.contains("  curl --cacert '/a folder/ca.pem' https://127"),
            "{text}"
        );
    }

    #[test]
    fn an_address_that_is_not_in_the_certificate_is_explained() {
        let mut banner = banner(false);
        assert!(!banner.text(&[]).contains("certificate"));
        banner.api = "https://127.0.0.1:8420".to_owned();
        assert!(banner.text(&[]).contains("a host name from the certificate"));
    }

    #[test]
    fn the_line_for_another_machine_stands_alone_so_that_it_can_be_copied() {
        let mut banner = banner(false);
        banner.agents = Some(vec!["192.0.2.1:8422".to_owned()]);
        let text = banner.text(&[]);
        assert!(
            text.contains("reveille agent token NAME") && !text.contains("rvt_"),
            "{text}"
        );
        let issued = json!({"agent": "gpu-box", "token_id": uuid::Uuid::from_u128(7), "secret": "x",
            "nats": ["192.0.2.1:8422"], "ca_sha256": "AAAA"});
        let token = Token::of(None, &Url::parse(&banner.api).unwrap(), &issued).unwrap();
        banner.join = Some((token.clone(), "12:34".to_owned()));
        let text = banner.text(&[]);
        let lines: Vec<_> = text.lines().filter(|line| line.contains("rvt_")).collect();
        assert_eq!(lines, [format!("reveille join {token}")]);
    }

    #[test]
    fn a_machine_gets_the_first_name_that_is_free() {
        assert_eq!(suggested(|_| false), "gpu-box");
        assert_eq!(suggested(|name| name == "gpu-box"), "gpu-box-2");
        assert_eq!(
            suggested(|name| ["gpu-box", "gpu-box-2"].contains(&name)),
            "gpu-box-3"
        );
    }

    #[test]
    fn registrations_of_an_earlier_run_do_not_count() {
        let banner = banner(false);
        assert!(!banner.is_complete(&[]));
        assert!(!banner.is_complete(&[provider(7)]));
        assert!(banner.is_complete(&[provider(8)]));
        assert!(
            banner
                .text(&[provider(7)])
                .contains("some of its providers aren't registered yet")
        );
    }

    #[tokio::test]
    async fn a_database_that_is_away_holds_up_no_request() {
        let (mut banner, _unanswered) = Banner::of_an_api_that_answers_no_invitation().await;
        let own_agent = CancellationToken::new();
        let ready = async {
            tokio::select! {
                _ = banner.providers(&own_agent) => panic!("the lists have answered"),
                () = own_agent.cancelled() => {}
            }
        };
        let ready = tokio::time::timeout(Duration::from_secs(10), ready).await;
        ready.expect("requests are taken while the database is looked for");
    }

    #[tokio::test]
    async fn no_token_is_made_where_its_text_is_kept_or_where_it_leads_nowhere() {
        let (mut banner, mut unanswered) = Banner::of_an_api_that_answers_no_invitation().await;
        banner.in_terminal = false;
        banner.invite().await;
        assert!(
            banner.joining().contains("reveille agent token NAME"),
            "{}",
            banner.joining()
        );
        (banner.in_terminal, banner.agents) = (true, Some(vec![]));
        banner.invite().await;
        assert!(banner.joining().contains("no address"), "{}", banner.joining());
        assert!(unanswered.try_recv().is_err(), "nothing was asked for");
    }
}
