//! A client of the API, with errors that say what to do.

use super::{Row, readiness::missing};
use crate::{
    api_auth,
    args::{API_PORT, ApiAddress},
    config_file::{self, hub_elsewhere},
    data_dir::{self, ROOT_KEY},
    failure::Failure,
};
use anyhow::{Context, anyhow};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode,
    header::{AUTHORIZATION, HeaderValue},
};
use reveille_agent::speaks_other_scheme;
use reveille_api::keys::SecretKey;
use reveille_bus::{HUB_HEADER, is_loopback_host};
use serde::Deserialize;
use serde_json::Value;
use std::{
    error::Error,
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};
use url::Url;

const CONNECTS_WITHIN: Duration = Duration::from_secs(5);
/// How long a response may take that needn't wait for anything.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// How many rows to request at a time.
pub const PAGE_ROWS: usize = 500;
/// What to do about an API that can't be reached.
pub const NOT_RUNNING: &str =
    "Is `reveille up` or `reveille api` running? For another address use --api URL or REVEILLE_API_URL.";
/// Which key is needed, and how it is given.
const KEY_NEEDED: &str = "Pass a key of this hub with --key or REVEILLE_API_KEY: lists need the scope `query`, changes the scope \
                          `admin`. `reveille key create` makes one on the hub's machine, where the commands find the root key \
                          themselves (--data-dir DIR if its `up` has one).";
/// How many rows to request at least, for some may not be wanted.
const FEW_ROWS: usize = 50;
/// The header in which an API names a request.
const REQUEST_ID: &str = "x-request-id";
/// How much of an error's body to show.
const MAX_ERROR_CHARS: usize = 2_000;

/// A client of one API.
#[derive(Debug, Clone)]
pub struct ApiClient {
    base: Url,
    http: reqwest::Client,
    /// The API key, sent with every request.
    key: Option<HeaderValue>,
    /// This machine's root key, for a local API that requires a key when none was given.
    root_key: Option<PathBuf>,
    /// This machine's config, if no address was given.
    config: Option<PathBuf>,
}

/// One page of a list.
#[derive(Debug, Deserialize)]
pub struct Page {
    pub data: Vec<Row>,
    /// Where the next page begins; absent on the last one.
    #[serde(default)]
    pub next: Option<String>,
    /// The last commit of the journal that the rows include.
    #[serde(default)]
    pub applied: u64,
}

impl ApiClient {
    pub fn new(address: &ApiAddress) -> Result<Self, Failure> {
        let data_dir = address.data_dir.path().ok();
        let base = address.url()?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(Failure::Config(format!(
                "--api: `{base}` is not the URL of an API, such as http://127.0.0.1:8420"
            )));
        }
        let key = address.key.as_deref().map(bearer).transpose()?;
        // An `up` that listens on one address of this machine isn't reached on loopback.
        let running = data_dir.as_deref().and_then(data_dir::running_up);
        let is_here = is_local(&base) || running.as_ref().is_some_and(|up| up.api == base);
        let own_ca = running
            .filter(|up| is_here && up.api.port_or_known_default() == base.port_or_known_default())
            .and_then(|up| up.ca);
        let config = match address.api {
            None => config_file::default_file(data_dir.as_deref()),
            Some(_) => None,
        };
        let root_key = data_dir.filter(|_| key.is_none() && is_here);
        let mut http = builder();
        if is_here {
            // A proxy would connect to its own machine.
            http = http.no_proxy();
        }
        if let Some(file) = &address.ca {
            http = http.tls_certs_only(authorities(file, "--ca")?);
        } else if let Some(file) = &own_ca {
            http = http.tls_certs_only(authorities(file, "the authority of the running `reveille up`")?);
        }
        Ok(Self {
            base,
            http: http.build()?,
            key,
            root_key: root_key.map(|folder| folder.join(ROOT_KEY)),
            config,
        })
    }

    /// Its URL.
    pub const fn base(&self) -> &Url {
        &self.base
    }

    /// The API of this process, at a URL without a path; called with its root key if it has one.
    pub fn local(url: &str, root: Option<&SecretKey>) -> Result<Self, Failure> {
        // The process calls itself at an address that isn't in the certificate.
        let http = builder().no_proxy().tls_danger_accept_invalid_certs(true);
        Ok(Self {
            base: Url::parse(url)?,
            http: http.build()?,
            key: root.map(|key| bearer(key.expose())).transpose()?,
            root_key: None,
            config: None,
        })
    }

    /// Whether it is ready.
    pub async fn is_ready(&self) -> bool {
        let answer = self.request(Method::GET, "/readyz").timeout(ANSWERS_WITHIN);
        answer
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
    }

    /// The first page of providers, at its full length.
    pub async fn providers(&self) -> Result<Page, Failure> {
        let request = self.request(Method::GET, "/reveille/v1/providers");
        self.json(request.query(&[("limit", PAGE_ROWS)])).await
    }

    /// The rows of a list, page after page, at most `most`.
    pub async fn rows(
        &self,
        path: &str,
        filters: &[(&str, String)],
        most: usize,
    ) -> Result<Vec<Row>, Failure> {
        let mut rows = vec![];
        let mut next = None;
        loop {
            let mut query = filters.to_vec();
            query.push(("limit", PAGE_ROWS.min(most - rows.len()).to_string()));
            query.extend(next.map(|next| ("after", next)));
            let page: Page = self.json(self.request(Method::GET, path).query(&query)).await?;
            rows.extend(page.data);
            next = page.next;
            if next.is_none() || rows.len() >= most {
                rows.truncate(most);
                return Ok(rows);
            }
        }
    }

    /// The rows of a list that are `wanted`, at most `most`, up to the first that is `past` all of these.
    pub async fn rows_until(
        &self,
        path: &str,
        filters: &[(&str, String)],
        most: usize,
        wanted: impl Fn(&Row) -> bool,
        past: impl Fn(&Row) -> bool,
    ) -> Result<Vec<Row>, Failure> {
        let mut rows = vec![];
        let mut next = None;
        loop {
            let mut query = filters.to_vec();
            query.push(("limit", most.clamp(FEW_ROWS, PAGE_ROWS).to_string()));
            query.extend(next.map(|next| ("after", next)));
            let page: Page = self.json(self.request(Method::GET, path).query(&query)).await?;
            for row in page.data {
                if rows.len() >= most || past(&row) {
                    return Ok(rows);
                }
                rows.extend(Some(row).filter(|row| wanted(row)));
            }
            next = page.next;
            if next.is_none() {
                return Ok(rows);
            }
        }
    }

    /// Hands over the rows of a list, page after page.
    pub async fn each_page(
        &self,
        path: &str,
        filters: &[(&str, String)],
        take: impl Fn(Vec<Row>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut next = None;
        loop {
            let mut query = filters.to_vec();
            query.push(("limit", PAGE_ROWS.to_string()));
            query.extend(next.map(|next| ("after", next)));
            let page: Page = self.json(self.request(Method::GET, path).query(&query)).await?;
            take(page.data)?;
            next = page.next;
            if next.is_none() {
                return Ok(());
            }
        }
    }

    /// Sends a request that is answered at once, and parses the response.
    pub async fn json<T: serde::de::DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let answer = self.send(request.timeout(ANSWERS_WITHIN)).await?;
        let (status, is_reveille) = (answer.status(), is_reveille(&answer));
        let text = answer.text().await.map_err(|error| self.broken(&error))?;
        match serde_json::from_str(&text) {
            Err(_) if !is_reveille => Err(self.foreign(status)),
            parsed => Ok(parsed.with_context(|| {
                format!(
                    "{} sent a response that this program doesn't understand: is it Reveille in the same version?",
                    self.shown()
                )
            })?),
        }
    }

    /// Sends a request with a JSON body, and returns the response's row.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Row, Failure> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    /// Deletes what is at a path, and returns the response's row.
    pub async fn delete(&self, path: &str) -> Result<Row, Failure> {
        self.json(self.request(Method::DELETE, path)).await
    }

    /// The body of a response of any status; empty if it isn't JSON.
    pub async fn body(&self, request: RequestBuilder) -> Result<Value, Failure> {
        let answer = self.ask(request.timeout(ANSWERS_WITHIN)).await?;
        if !is_reveille(&answer) {
            return Err(self.foreign(answer.status()));
        }
        let text = answer.text().await.map_err(|error| self.broken(&error))?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// A request to a path of the API.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let base = self.base.as_str().trim_end_matches('/');
        let request = self.http.request(method, format!("{base}{path}"));
        match &self.key {
            Some(key) => request.header(AUTHORIZATION, key.clone()),
            None => request,
        }
    }

    /// Sends a request. A response with an error status is an error, in the API's own words.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let again = self
            .root_key
            .as_ref()
            .and_then(|file| Some((request.try_clone()?, file)));
        let answer = self.ask(request).await?;
        // The root key is only sent to an API on this machine that requires a key.
        if answer.status() == StatusCode::UNAUTHORIZED
            && let Some((again, file)) = again
            && let Some(key) = api_auth::read(file)?
        {
            let again = again.header(AUTHORIZATION, bearer(key.expose())?);
            return self.accept(self.ask(again).await?).await;
        }
        self.accept(answer).await
    }

    /// Sends a request, and returns the response whatever its status.
    pub async fn ask(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let error = match request.send().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let is_other = certificate_error(&error).is_none() && !error.is_timeout();
        if is_other && speaks_other_scheme(&self.base).await {
            return Err(self.other_scheme());
        }
        Err(self.broken(&error))
    }

    /// The response, unless its status is an error.
    pub async fn accept(&self, answer: Response) -> Result<Response, Failure> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        if !is_reveille(&answer) {
            return Err(match speaks_other_scheme(&self.base).await {
                true => self.other_scheme(),
                false => self.foreign(status),
            });
        }
        let text = answer.text().await.unwrap_or_default();
        Err(self.refused(status, &text).into())
    }

    fn broken(&self, error: &reqwest::Error) -> Failure {
        let mut cause = error.source();
        let mut reason = error.to_string();
        while let Some(inner) = cause {
            reason = inner.to_string();
            cause = inner.source();
        }
        let base = self.shown();
        if let Some(rejected) = certificate_error(error) {
            let remedy = remedy(rejected);
            anyhow!("the certificate of the API at {base} was rejected: {rejected}\n{remedy}").into()
        } else if error.is_connect() {
            let remedy = match (self.base.port(), self.base.host()) {
                (None, Some(host)) if is_local(&self.base) => format!(
                    "A URL without a port means port {}: did you mean {}://{host}:{API_PORT}?",
                    self.base.port_or_known_default().unwrap_or_default(),
                    self.base.scheme()
                ),
                _ => match self.config.as_deref().and_then(hub_elsewhere) {
                    Some(hub) => format!(
                        "This machine's agent belongs to the hub at {hub}: name that hub's API with --api URL or REVEILLE_API_URL."
                    ),
                    None => NOT_RUNNING.to_owned(),
                },
            };
            anyhow!("cannot reach the API at {base}: {reason}\n{remedy}").into()
        } else if error.is_timeout() {
            anyhow!("the API at {base} did not answer in time").into()
        } else {
            anyhow!("the connection to the API at {base} broke: {reason}").into()
        }
    }

    fn refused(&self, status: StatusCode, text: &str) -> anyhow::Error {
        let body: Value = serde_json::from_str(text).unwrap_or_default();
        match body["error"]["message"].as_str() {
            Some(message) if status == StatusCode::UNAUTHORIZED => {
                anyhow!("{}\n{KEY_NEEDED}", super::format::printable(message))
            }
            Some(message) => anyhow!("{}", super::format::printable(message)),
            None if body["status"] == "not_ready" => {
                anyhow!("the API at {} isn't ready: {}", self.shown(), missing(&body))
            }
            None => {
                let text: String = text.chars().take(MAX_ERROR_CHARS).collect();
                anyhow!(
                    "the API at {} answered {status}: {}",
                    self.shown(),
                    super::format::printable(text.trim())
                )
            }
        }
    }

    /// What answers isn't Reveille.
    fn foreign(&self, status: StatusCode) -> Failure {
        anyhow!(
            "the server at {} is not Reveille's API: it answered {status}\n\
             Use --api URL or REVEILLE_API_URL with the address of an API; `reveille up` shows its own.",
            self.shown()
        )
        .into()
    }

    /// The server speaks the other of `http` and `https`.
    fn other_scheme(&self) -> Failure {
        let base = self.shown();
        let (is, other) = match base.strip_prefix("https://") {
            Some(rest) => ("HTTP without TLS", format!("http://{rest}")),
            None => ("HTTPS", format!("https://{}", base.trim_start_matches("http://"))),
        };
        anyhow!("the server at {base} speaks {is}\nUse --api {other} for it.").into()
    }

    /// Its URL for people.
    fn shown(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }
}

/// Whether a response comes from an API of Reveille's, which names each request and, once it knows it, its hub.
fn is_reveille(answer: &Response) -> bool {
    let headers = answer.headers();
    headers.contains_key(HUB_HEADER) || headers.contains_key(REQUEST_ID)
}

/// A key as a header, marked so that it isn't logged.
fn bearer(key: &str) -> Result<HeaderValue, Failure> {
    let value = HeaderValue::from_str(&format!("Bearer {key}"));
    let mut value =
        value.map_err(|_| Failure::Config("--key contains characters that no key has".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(CONNECTS_WITHIN)
        .tls_info(true)
        .user_agent(concat!("reveille/", env!("CARGO_PKG_VERSION")))
}

/// The certificates in a file, to trust instead of the system's; `named` says in an error whose file it is.
fn authorities(file: &Path, named: &str) -> Result<Vec<reqwest::Certificate>, Failure> {
    let unusable = |what: &dyn fmt::Display| Failure::Config(format!("{named}: {}: {what}", file.display()));
    let pem = fs::read(file).map_err(|error| unusable(&error))?;
    let authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable(&error))?;
    if authorities.is_empty() {
        return Err(unusable(
            &"it contains no certificate (-----BEGIN CERTIFICATE-----)",
        ));
    }
    Ok(authorities)
}

/// Why the server's certificate was rejected, if that is what happened.
fn certificate_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    match error.downcast_ref() {
        Some(refused @ rustls::Error::InvalidCertificate(_)) => return Some(refused),
        Some(_) => return None,
        None => {}
    }
    // TLS errors are wrapped in an I/O error, which doesn't list them as its cause.
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => certificate_error(inner),
        None => certificate_error(error.source()?),
    }
}

fn remedy(refused: &rustls::Error) -> &'static str {
    use rustls::CertificateError as Certificate;
    match refused {
        rustls::Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => "Use a host name from its certificate, or give it a certificate for this name.",
        rustls::Error::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        ) => "Renew the certificate, or correct this machine's clock.",
        _ => "For a private certificate authority use --ca FILE or REVEILLE_CA_FILE.",
    }
}

/// Whether a URL names this machine.
pub fn is_local(url: &Url) -> bool {
    url.host_str().is_some_and(is_loopback_host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        args::DataDirArg,
        data_dir::{AGENTS_TLS, DataDir, RunningUp},
    };

    #[tokio::test]
    async fn only_an_api_with_a_certificate_of_our_own_is_held_to_our_own_authority() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).await.unwrap();
        // Whoever trusts this file alone is told that it is no certificate.
        let ca = data.join(AGENTS_TLS).join("ca.pem");
        fs::create_dir(data.join(AGENTS_TLS)).unwrap();
        fs::write(&ca, "of an earlier run").unwrap();
        let at = |api: &str| {
            ApiClient::new(&ApiAddress {
                data_dir: DataDirArg {
                    data_dir: Some(folder.path().to_owned()),
                },
                ..ApiAddress::keyless(Url::parse(api).unwrap())
            })
        };
        let (api, other) = ("https://127.0.0.1:8420", "https://127.0.0.1:9000");
        for (own, addressed, is_trusted) in [
            (None, api, false),
            (Some(&ca), other, false),
            (Some(&ca), "https://192.0.2.1:8420", false),
            (Some(&ca), api, true),
        ] {
            let run = RunningUp {
                api: Url::parse(api).unwrap(),
                nats: None,
                ca: own.cloned(),
                config: None,
            };
            data.announce(&run).unwrap();
            let client = at(addressed);
            assert_eq!(client.is_err(), is_trusted, "{addressed} {own:?}");
            if let Err(failure) = client {
                let said = failure.to_string();
                assert!(
                    said.starts_with("the authority of the running `reveille up`"),
                    "{said}"
                );
            }
        }
    }
}
