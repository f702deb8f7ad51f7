//! TLS: handshakes, what isn't one, and a certificate that is renewed.

use super::*;
use crate::server::tls::TlsFiles;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};
use tempfile::TempDir;
use tokio_rustls::{TlsConnector, client::TlsStream};

const GET: &str = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Writes a new certificate for `localhost` and its key, and returns it.
fn renew(folder: &Path) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(folder.join("cert.pem"), cert.pem()).expect("it is written");
    let key = folder.join("key.pem");
    fs::write(&key, signing_key.serialize_pem()).expect("it is written");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("it is ours");
    cert.der().clone()
}

fn load(folder: &Path) -> Tls {
    let files = TlsFiles {
        certificate: folder.join("cert.pem"),
        key: folder.join("key.pem"),
    };
    Tls::load(files).expect("it is usable").0
}

async fn shake(
    served: &Served,
    trusted: &CertificateDer<'static>,
    protocols: &[&str],
) -> io::Result<Talk<TlsStream<TcpStream>>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(served.address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(Talk::new(stream))
}

#[test]
fn a_certificate_names_its_hosts() {
    let folder = TempDir::new().expect("a folder");
    renew(folder.path());
    let names = ["hub.example", "*.chat.example", "192.0.2.7"].map(str::to_owned);
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).expect("a certificate");
    fs::write(folder.path().join("cert.pem"), cert.pem()).expect("it is written");
    fs::write(folder.path().join("key.pem"), signing_key.serialize_pem()).expect("it is written");
    let tls = load(folder.path());
    for host in ["hub.example", "a.chat.example", "192.0.2.7"] {
        assert!(tls.certifies(host), "{host}");
    }
    for host in [
        "evil.example",
        "a.hub.example",
        "chat.example",
        "192.0.2.8",
        "",
        "a b",
    ] {
        assert!(!tls.certifies(host), "{host}");
    }
}

#[tokio::test]
async fn both_protocols_are_spoken_over_tls_as_the_client_chooses() {
    let folder = TempDir::new().expect("a folder");
    let certificate = renew(folder.path());
    let served = Served::with(limits(), Some(load(folder.path()))).await;
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let mut talk = shake(&served, &certificate, offered).await.expect("a handshake");
        let spoken = talk.stream.get_ref().1.alpn_protocol();
        assert_eq!(spoken, chosen.map(str::as_bytes));
        if chosen != Some("h2") {
            talk.send(GET).await;
            assert_eq!(talk.answer().await.body, "hello");
        }
    }
}

#[tokio::test]
async fn plain_http_is_told_that_this_is_tls() {
    let folder = TempDir::new().expect("a folder");
    renew(folder.path());
    let served = Served::with(limits(), Some(load(folder.path()))).await;
    let mut talk = served.connect().await;
    talk.send(GET).await;
    let answer = talk.answer().await;
    assert_eq!(
        (answer.status, answer.error_code().as_str()),
        (400, "https_required")
    );
    assert_eq!(talk.rest_of_it().await, b"");
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_ends() {
    let folder = TempDir::new().expect("a folder");
    let certificate = renew(folder.path());
    let mut limits = limits();
    limits.handshake_within = SHORT;
    let served = Served::with(limits, Some(load(folder.path()))).await;
    let (mut silent, mut begun) = (served.connect().await, served.connect().await);
    // The head of a record that doesn't come.
    begun.send([22, 3, 1, 2, 0]).await;
    for talk in [&mut silent, &mut begun] {
        assert_eq!(talk.rest_of_it().await, b"");
    }
    let mut talk = shake(&served, &certificate, &[])
        .await
        .expect("others are served");
    talk.send(GET).await;
    assert_eq!(talk.answer().await.status, 200);
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_up_and_a_broken_one_is_not() {
    let folder = TempDir::new().expect("a folder");
    let old = renew(folder.path());
    let tls = load(folder.path());
    let served = Served::with(limits(), Some(tls.clone())).await;
    let watched = tls.clone();
    let watch = tokio::spawn(async move { watched.keep_current().await });
    let mut before = shake(&served, &old, &[]).await.expect("the first certificate");

    // Without being told: by the files alone.
    let new = renew(folder.path());
    until(async || shake(&served, &new, &[]).await.is_ok()).await;
    assert!(
        shake(&served, &old, &[]).await.is_err(),
        "the old one is still given"
    );
    before.send(GET).await;
    assert_eq!(
        before.answer().await.status,
        200,
        "a connection from before goes on"
    );

    // A key that isn't the certificate's changes nothing.
    let key = fs::read(folder.path().join("key.pem")).expect("the key");
    let newest = renew(folder.path());
    let newest_key = fs::read(folder.path().join("key.pem")).expect("the key");
    fs::write(folder.path().join("key.pem"), key).expect("it is written");
    tls.reload();
    sleep(SHORT).await;
    assert!(
        shake(&served, &new, &[]).await.is_ok(),
        "the one that worked is gone"
    );

    // Told, it is quick.
    fs::write(folder.path().join("key.pem"), newest_key).expect("it is written");
    tls.reload();
    until(async || shake(&served, &newest, &[]).await.is_ok()).await;
    watch.abort();
}
