//! Probes of backends and steps of recipes over TLS: what they trust, and what they say of a server that they don't.

#[expect(dead_code, reason = "the tests of recipes use the rest")]
mod backend;
#[path = "control/mod.rs"]
#[expect(dead_code, reason = "the tests of owners use the rest")]
mod control;
#[expect(dead_code, reason = "the tests of sessions use the rest")]
mod whole_agent;

use backend::{Backend, named_provider, outcome, runner};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use reveille_agent::{
    config::{Config, ProviderConfig},
    fetch,
    probe::Probe,
    recipe::Run,
};
use reveille_domain::provider::StatusName::Down;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use std::{fs, sync::Arc};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use whole_agent::World;

/// What a record of a TLS handshake begins with.
const HANDSHAKE: u8 = 0x16;

/// A server with a certificate of its own, as `openssl req -x509` makes it; it answers everything with a list of `m`.
struct Server {
    port: u16,
    folder: TempDir,
}

impl Server {
    async fn start() -> Self {
        Self::with(false).await
    }

    /// One that may answer requests without TLS by a status, as many do.
    async fn with(answers_http: bool) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("own.pem"), certificate.pem()).expect("written");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate.der().clone()], key);
        let acceptor = TlsAcceptor::from(Arc::new(config.expect("a pair")));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            loop {
                let (mut connection, _) = listener.accept().await.expect("a connection");
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if answers_http && !is_handshake(&connection).await {
                        let _ = connection
                            .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nTLS, please")
                            .await;
                        return;
                    }
                    let Ok(mut connection) = acceptor.accept(connection).await else {
                        return;
                    };
                    let mut request = [0; 4096];
                    let _ = connection.read(&mut request).await;
                    let list = r#"{"object":"list","data":[{"id":"m"}]}"#;
                    let length = list.len();
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{list}"
                    );
                    let _ = connection.write_all(answer.as_bytes()).await;
                    let _ = connection.shutdown().await;
                });
            }
        });
        Self { port, folder }
    }

    /// A provider whose config is in the folder of the certificate.
    fn provider(&self, text: &str) -> ProviderConfig {
        let file = self.folder.path().join("agent.toml").display().to_string();
        let text = format!("[[provider]]\nname = \"p\"\n{text}").replace("PORT", &self.port.to_string());
        let mut config = Config::parse(&text, &file, &|_| None).unwrap_or_else(|error| panic!("{error}"));
        config.providers.remove(0)
    }
}

async fn is_handshake(connection: &TcpStream) -> bool {
    let mut first = [0];
    connection.peek(&mut first).await.is_ok() && first == [HANDSHAKE]
}

/// The probe of a provider.
fn probe(provider: &ProviderConfig) -> Probe {
    let client = fetch::client_for(&provider.trust, provider.base_url.socket());
    Probe::new(client.expect("a client"), provider)
}

const UNTRUSTED: &str =
    "the server's certificate (rcgen self signed cert) is self-signed and not trusted: name its file in `ca`";

#[tokio::test]
async fn a_probe_trusts_what_the_config_says_and_names_what_is_wrong() {
    let server = Server::start().await;
    let plain = Backend::start().await;
    let mixed_up = plain.url.replace("http://", "https://");
    for (config, wrong) in [
        ("base_url = \"https://127.0.0.1:PORT\"\nca = \"own.pem\"", None),
        (
            "base_url = \"https://127.0.0.1:PORT\"\ninsecure_skip_verify = true",
            None,
        ),
        ("base_url = \"https://127.0.0.1:PORT\"", Some(UNTRUSTED)),
        (
            "base_url = \"https://localhost:PORT\"\nca = \"own.pem\"",
            Some("the server's certificate (rcgen self signed cert) is for 127.0.0.1, not for localhost"),
        ),
        (
            "base_url = \"http://127.0.0.1:PORT\"",
            Some("the server speaks TLS there, so its URL must begin with https://"),
        ),
        (
            &format!("base_url = \"{mixed_up}\""),
            Some("the server speaks HTTP without TLS there, so its URL must begin with http://"),
        ),
    ] {
        let verdict = probe(&server.provider(config)).check().await;
        let reason = verdict.err().map(|why| why.reason);
        assert_eq!(reason.as_deref(), wrong, "{config}");
    }
}

#[tokio::test]
async fn the_list_of_models_is_asked_for_with_the_same_trust() {
    let server = Server::start().await;
    for path in ["/v1/models", "/health"] {
        let provider = |model: &str| {
            server.provider(&format!(
                "base_url = \"https://127.0.0.1:PORT\"\nca = \"own.pem\"\nmodels = [\"{model}\"]\nprobe = {{ path = \"{path}\", check_models = true }}"
            ))
        };
        assert_eq!(probe(&provider("m")).check_and_identify().await, Ok(()), "{path}");
        let why = probe(&provider("x"))
            .check_and_identify()
            .await
            .expect_err("another server");
        assert!(
            why.reason.contains("lists `m`, not `x`"),
            "{path}: {}",
            why.reason
        );
    }
}

#[tokio::test]
async fn a_step_trusts_what_its_provider_does_and_its_failure_names_what_is_wrong() {
    let server = Server::start().await;
    let backend = Backend::start().await;
    backend.wake_up();
    let wake = async |base_url: &str, trust: &str, step: &str| {
        let provider = server.provider(&format!(
            "base_url = \"{base_url}\"\n{trust}\n[provider.wake]\ntype = \"http\"\nurl = \"{step}\"\n"
        ));
        let recipe = provider.wake.clone().expect("a recipe");
        let mut run = Run::wake(runner(), recipe, probe(&provider), Box::pin(async {}));
        outcome(&mut run).await.failure.map(|failure| failure.reason)
    };
    let (https, http) = ("https://127.0.0.1:PORT/wake", "http://127.0.0.1:PORT/wake");
    let plain = &backend.url;
    assert_eq!(wake(plain, "ca = \"own.pem\"", https).await, None);
    assert_eq!(wake(plain, "", https).await.as_deref(), Some(UNTRUSTED));
    let any = "insecure_skip_verify = true";
    assert_eq!(wake("https://127.0.0.1:PORT", any, https).await, None);
    let elsewhere = wake("https://127.0.0.1:PORT", any, "https://localhost:PORT/wake").await;
    assert!(
        elsewhere.is_some_and(|reason| reason.contains("certificate")),
        "another host is verified"
    );
    assert_eq!(
        wake(plain, "", http).await.as_deref(),
        Some("the server speaks TLS there, so its URL must begin with https://")
    );
}

#[tokio::test]
async fn a_server_that_answers_without_tls_by_a_status_is_recognized_too() {
    let server = Server::with(true).await;
    let verdict = probe(&server.provider("base_url = \"http://127.0.0.1:PORT\""))
        .check()
        .await;
    let reason = verdict.expect_err("it wants TLS").reason;
    assert_eq!(
        reason,
        "the server speaks TLS there, so its URL must begin with https://"
    );
}

#[tokio::test]
async fn a_request_is_told_what_is_wrong_with_the_server() {
    let (server, plain) = (Server::start().await, Backend::start().await);
    let at = |scheme: &str| format!("{scheme}://127.0.0.1:{}", server.port);
    for (url, wrong) in [
        (at("https"), UNTRUSTED),
        (
            at("http"),
            "the server speaks TLS there, so its URL must begin with https://",
        ),
        (
            plain.url.replace("http://", "https://"),
            "the server speaks HTTP without TLS there, so its URL must begin with http://",
        ),
    ] {
        let world = World::start(&format!("base_url = \"{url}\"\nmodels = [\"m\"]")).await;
        world.until(Down).await;
        let fault = world.fault("/v1/chat/completions").await;
        assert!(fault.message.ends_with(wrong), "{fault}");
    }
}

#[tokio::test]
async fn nothing_else_is_said_of_a_backend_that_is_simply_not_there() {
    let closed = backend::Closed::claim();
    let provider = named_provider(
        "p",
        &format!("base_url = \"{}\"", closed.url.replace("http", "https")),
    );
    let why = probe(&provider).check().await.expect_err("nobody listens");
    assert_eq!((why.refused, why.reason.as_str()), (true, "connection refused"));
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("none.sock");
    let provider = named_provider("p", &format!("base_url = \"unix://{}\"", socket.display()));
    let why = probe(&provider).check().await.expect_err("no socket");
    assert_eq!(
        (why.refused, why.reason.as_str()),
        (true, "the socket doesn't exist")
    );
}
