//! Servers with certificates of all kinds, against real sockets.

use super::*;
use crate::config::{Address, Trust};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::{
    HandshakeKind, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use url::Url;

/// A certificate to be made for a server that is asked for as 127.0.0.1.
struct Made {
    params: CertificateParams,
    key: KeyPair,
}

/// A certificate and its key.
type Pair = (CertificateDer<'static>, PrivateKeyDer<'static>);

fn made(label: &str, names: &[&str]) -> Made {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("parameters");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, label);
    let key = KeyPair::generate().expect("a key");
    Made { params, key }
}

impl Made {
    fn authority(mut self) -> Self {
        self.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self
    }

    fn valid(mut self, from: i32, until: i32) -> Self {
        self.params.not_before = date_time_ymd(from, 1, 1);
        self.params.not_after = date_time_ymd(until, 1, 1);
        self
    }

    fn self_signed(&self) -> Pair {
        let certificate = self.params.self_signed(&self.key).expect("a certificate");
        (certificate.der().clone(), key(&self.key))
    }

    fn signed_by(&self, authority: &Self) -> Pair {
        let issuer = Issuer::from_params(&authority.params, &authority.key);
        let certificate = self.params.signed_by(&self.key, &issuer).expect("a certificate");
        (certificate.der().clone(), key(&self.key))
    }
}

fn key(pair: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(pair.serialize_der()).expect("a key")
}

fn install() {
    // Another test of this process may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A server with that certificate; it ends with the test's runtime.
async fn serve((certificate, key): Pair) -> Url {
    install();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate], key).expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    listen("https", move |connection| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(mut connection) = acceptor.accept(connection).await {
                let _ = connection.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await;
                let _ = connection.shutdown().await;
            }
        }
    })
    .await
}

async fn listen<F>(scheme: &str, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Url
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("{scheme}://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.expect("a connection");
            tokio::spawn(serve(connection));
        }
    });
    url.parse().expect("a URL")
}

/// A handshake with the server; the reason if there is none.
async fn greet(url: &Url, trust: &Trust) -> Result<(), String> {
    let connector = TlsConnector::from(Arc::new(client_config(trust).expect("TLS")));
    let port = url.port().expect("a port");
    let connection = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("a connection");
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let greeted = connector.connect(name, connection).await;
    let mut answer = Vec::new();
    match greeted {
        Ok(mut connection) => connection.read_to_end(&mut answer).await,
        Err(error) => Err(error),
    }
    .map(|_| ())
    .map_err(|error| reason(&error).unwrap_or_else(|| format!("not TLS: {error}")))
}

fn trusting(certificates: &[&CertificateDer<'static>]) -> Trust {
    Trust {
        certificates: certificates
            .iter()
            .map(|&certificate| certificate.clone())
            .collect(),
        ..Trust::default()
    }
}

const LOOPBACK: &[&str] = &["127.0.0.1"];

#[tokio::test]
async fn a_servers_own_certificate_and_its_authority_are_trusted_once_they_are_named() {
    let authority = made("a private authority", &[]).authority();
    let plain = made("plain", LOOPBACK).self_signed();
    // What `openssl req -x509` makes: a server's certificate that is an authority as well.
    let openssl = made("openssl", LOOPBACK).authority().self_signed();
    let signed = made("signed", LOOPBACK).signed_by(&authority);
    let root = authority.self_signed().0;
    for (pair, named, wrong) in [
        (
            &plain,
            &plain.0,
            "(plain) is self-signed and not trusted: name its file in `ca`",
        ),
        (
            &openssl,
            &openssl.0,
            "(openssl) is self-signed and not trusted: name its file in `ca`",
        ),
        (
            &signed,
            &root,
            "(signed) was issued by a private authority, which isn't trusted: name that authority's file in `ca`",
        ),
        (
            &signed,
            &signed.0,
            "(signed) was issued by a private authority, which isn't trusted: name that authority's file in `ca`",
        ),
    ] {
        let url = serve((pair.0.clone(), pair.1.clone_key())).await;
        let refused = greet(&url, &Trust::default()).await.expect_err("unknown");
        assert_eq!(refused, format!("the server's certificate {wrong}"));
        let other = made("another", LOOPBACK).self_signed().0;
        assert_eq!(greet(&url, &trusting(&[&other])).await, Err(refused));
        assert_eq!(greet(&url, &trusting(&[&other, named])).await, Ok(()), "{wrong}");
    }
}

#[tokio::test]
async fn a_trusted_certificate_must_still_be_valid_now_and_for_this_host() {
    let authority = made("a private authority", &[]).authority();
    let root = authority.self_signed().0;
    let hosts = ["box.lan", "*.box.lan", "10.0.0.7", "::1"];
    for (certificate, wrong) in [
        (
            made("old", LOOPBACK).valid(2020, 2021),
            "(old) expired at 2021-01-01T00:00:00Z",
        ),
        (
            made("new", LOOPBACK).valid(2080, 2090),
            "(new) isn't valid before 2080-01-01T00:00:00Z: is this machine's clock right?",
        ),
        (
            made("elsewhere", &hosts),
            "(elsewhere) is for box.lan, *.box.lan, 10.0.0.7 and ::1, not for 127.0.0.1",
        ),
        (
            made("nowhere", &[]),
            "(nowhere) names no host (no subjectAltName), so it isn't for 127.0.0.1",
        ),
    ] {
        let wrong = Err(format!("the server's certificate {wrong}"));
        let signed = certificate.signed_by(&authority);
        assert_eq!(greet(&serve(signed).await, &trusting(&[&root])).await, wrong);
        for certificate in [certificate.self_signed(), certificate.authority().self_signed()] {
            let own = certificate.0.clone();
            assert_eq!(greet(&serve(certificate).await, &trusting(&[&own])).await, wrong);
        }
    }
}

#[tokio::test]
async fn each_connection_verifies_the_certificate() {
    let pair = made("box", LOOPBACK).self_signed();
    let config = Arc::new(client_config(&trusting(&[&pair.0])).expect("TLS"));
    let url = serve(pair).await;
    for _ in 0..3 {
        let port = url.port().expect("a port");
        let connection = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let greeted = TlsConnector::from(config.clone()).connect(name, connection).await;
        let mut connection = greeted.expect("a handshake");
        // The tickets to resume it come with the answer.
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await.expect("an answer");
        let kind = connection.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_certificate_that_isnt_a_servers_is_named_as_what_it_is() {
    let authority = made("a private authority", &[]).authority();
    let root = authority.self_signed().0;
    let mut client = made("client", LOOPBACK);
    client.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    for (certificate, wrong) in [
        (client, "(client) isn't made for a server (extendedKeyUsage)"),
        (
            made("between", LOOPBACK).authority(),
            "(between) is an authority's, not a server's (basicConstraints): name its file in `ca`",
        ),
    ] {
        let wrong = Err(format!("the server's certificate {wrong}"));
        let url = serve(certificate.signed_by(&authority)).await;
        assert_eq!(greet(&url, &trusting(&[&root])).await, wrong);
    }
}

#[tokio::test]
async fn without_verification_any_certificate_will_do() {
    let any = Trust {
        skip_verify: true,
        ..Trust::default()
    };
    let url = serve(made("old", &[]).valid(2020, 2021).authority().self_signed()).await;
    assert_eq!(greet(&url, &any).await, Ok(()));
    assert!(greet(&url, &any.verifying()).await.is_err());
}

#[tokio::test]
async fn a_server_that_speaks_the_other_scheme_is_recognized() {
    let encrypted = serve(made("box", LOOPBACK).self_signed()).await;
    let plain = listen("http", async |mut connection| {
        let mut request = [0; 16];
        let _ = connection.read(&mut request).await;
        let _ = connection
            .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            .await;
    })
    .await;
    let closing = listen("http", async |connection| drop(connection)).await;
    let with = |scheme: &str, url: &Url| {
        let port = url.port().expect("a port");
        let url = format!("{scheme}://127.0.0.1:{port}/x").parse().expect("a URL");
        Address { url, socket: None }
    };
    let hint = other_scheme(&with("http", &encrypted)).await;
    assert_eq!(
        hint,
        Some("the server speaks TLS there, so its URL must begin with https://")
    );
    let hint = other_scheme(&with("https", &plain)).await;
    assert_eq!(
        hint,
        Some("the server speaks HTTP without TLS there, so its URL must begin with http://")
    );
    for right in [
        with("https", &encrypted),
        with("http", &plain),
        with("https", &closing),
        with("http", &closing),
    ] {
        assert_eq!(other_scheme(&right).await, None, "{right}");
    }
    let garbled = greet(&plain, &Trust::default()).await;
    assert_eq!(garbled, Err("the server doesn't speak TLS there".to_owned()));
    let cut = greet(&closing, &Trust::default()).await;
    assert!(cut.as_ref().is_err_and(|why| why.contains("TLS")), "{cut:?}");
}
