//! The hub's own certificate authority, and a server certificate from it.

use crate::{failure::Failure, whole_file};
use anyhow::{Context, anyhow};
use jiff::{Span, Timestamp, civil::Date, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use reveille_bus::private_file;
use std::{fs, io::ErrorKind, path::Path};
use time::OffsetDateTime;

/// The authority's lifetime in days: about ten years, because everyone who trusts it must be given its successor.
const AUTHORITY_DAYS: i32 = 3652;
/// A server certificate's lifetime in days: about thirteen months, the longest that every client accepts.
const SERVER_DAYS: i32 = 397;

/// The file of the authority's certificate.
pub const AUTHORITY: &str = "ca.pem";
const SERVER_CERTIFICATE: &str = "server.pem";
const SERVER_KEY: &str = "server.key";
/// The server's certificate and its key.
pub const SERVER_FILES: [&str; 2] = [SERVER_CERTIFICATE, SERVER_KEY];

/// The parts of a server's config that name its certificate.
pub struct TlsBlocks {
    /// For clients.
    pub for_clients: String,
    /// For the servers of a cluster, which must show each other certificates of the same authority.
    pub for_routes: String,
}

/// Creates the authority if there is none, and a new certificate for `hosts`.
pub fn make(folder: &Path, hosts: &[String]) -> Result<TlsBlocks, Failure> {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let authority_params = authority(today)?;
    let key_file = folder.join("ca.key");
    let key = match fs::read_to_string(&key_file) {
        Ok(pem) => KeyPair::from_pem(&pem).with_context(|| format!("{} is not a key", key_file.display()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = KeyPair::generate()?;
            private(&key_file, &key.serialize_pem())?;
            let certificate = authority_params.self_signed(&key)?;
            public(&folder.join(AUTHORITY), &certificate.pem())?;
            key
        }
        Err(error) => return Err(anyhow!("{}: {error}", key_file.display()).into()),
    };
    // The authority's first certificate stays valid: only its name and key matter.
    let issuer = Issuer::new(authority_params, key);
    let server_key = KeyPair::generate()?;
    let certificate = server(hosts, today)?.signed_by(&server_key, &issuer)?;
    private(&folder.join(SERVER_KEY), &server_key.serialize_pem())?;
    // With the authority's own certificate: a machine that knows only its fingerprint learns it from the server.
    let authority = folder.join(AUTHORITY);
    let authority =
        fs::read_to_string(&authority).with_context(|| format!("cannot read {}", authority.display()))?;
    public(
        &folder.join(SERVER_CERTIFICATE),
        &format!("{}{authority}", certificate.pem()),
    )?;
    blocks(folder)
}

/// The parts for the certificate of an earlier run, if there is one.
pub fn earlier(folder: &Path) -> Result<Option<TlsBlocks>, Failure> {
    let has = |name: &str| folder.join(name).exists();
    if has(SERVER_CERTIFICATE) && has(SERVER_KEY) {
        blocks(folder).map(Some)
    } else {
        Ok(None)
    }
}

fn blocks(folder: &Path) -> Result<TlsBlocks, Failure> {
    let file = |name: &str| quoted(&folder.join(name));
    let files = format!(
        "  cert_file: {}\n  key_file: {}\n",
        file(SERVER_CERTIFICATE)?,
        file(SERVER_KEY)?
    );
    Ok(TlsBlocks {
        for_clients: format!("tls {{\n{files}}}\n"),
        for_routes: format!(
            "tls {{\n{files}  ca_file: {}\n  verify: true\n}}\n",
            file(AUTHORITY)?
        ),
    })
}

fn authority(today: Date) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, "Reveille hub");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = validity(today, AUTHORITY_DAYS)?;
    Ok(params)
}

fn server(hosts: &[String], today: Date) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::new(hosts).map_err(|_| {
        Failure::Config("--host must be a name or an address, such as hub.example".to_owned())
    })?;
    params
        .distinguished_name
        .push(DnType::CommonName, "Reveille NATS server");
    // Servers of a cluster also connect to each other.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = validity(today, SERVER_DAYS)?;
    Ok(params)
}

/// Valid from yesterday, because clocks differ.
fn validity(today: Date, days: i32) -> Result<(OffsetDateTime, OffsetDateTime), Failure> {
    let at = |date: Date| -> Result<OffsetDateTime, Failure> {
        let (month, day) = (u8::try_from(date.month())?, u8::try_from(date.day())?);
        Ok(date_time_ymd(i32::from(date.year()), month, day))
    };
    let day = |days: i32| today.checked_add(Span::new().days(days));
    Ok((at(day(-1)?)?, at(day(days)?)?))
}

fn private(path: &Path, text: &str) -> Result<(), Failure> {
    write(path, text, private_file::FILE_MODE)
}

fn public(path: &Path, text: &str) -> Result<(), Failure> {
    write(path, text, 0o644)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let written = whole_file::write(path, text, mode, true);
    Ok(written.with_context(|| format!("cannot write {}", path.display()))?)
}

fn quoted(path: &Path) -> Result<String, Failure> {
    let text = path
        .to_str()
        .with_context(|| format!("{} is not text", path.display()))?;
    Ok(serde_json::to_string(text)?)
}
