//! The API: whether it is ready, and when its certificate expires.

use super::{Findings, published};
use crate::{
    args::{ApiAddress, DataDirArg},
    client::{ApiClient, NOT_RUNNING},
    failure::Failure,
};
use reqwest::{Method, tls::TlsInfo};
use reveille_agent::hub_of;
use reveille_api::server::tls::{EXPIRES_SOON, Validity};
use reveille_bus::HubId;
use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use url::Url;

/// How long the API may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// The hub that the API belongs to, if it answers.
pub async fn hub(
    named: Option<&Url>,
    ca: Option<PathBuf>,
    data_dir: &Path,
) -> Result<Option<HubId>, Failure> {
    let (_, api) = client(named, ca, data_dir.to_owned())?;
    let request = api.request(Method::GET, "/livez").timeout(ANSWERS_WITHIN);
    Ok(api
        .ask(request)
        .await
        .ok()
        .and_then(|answer| hub_of(answer.headers())))
}

/// Checks the API, and what it says of its providers. One named on the command line must answer, the default one needn't.
pub async fn look(
    named: Option<&Url>,
    ca: Option<PathBuf>,
    data_dir: PathBuf,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let (url, api) = client(named, ca, data_dir)?;
    let shown = url.as_str().trim_end_matches('/');
    let request = api.request(Method::GET, "/readyz").timeout(ANSWERS_WITHIN);
    let failure = match api.ask(request).await {
        Ok(answer) => {
            let certificate = answer
                .extensions()
                .get::<TlsInfo>()
                .and_then(TlsInfo::peer_certificate);
            if let Some(validity) = certificate.and_then(Validity::of) {
                expiry(&validity, SystemTime::now(), findings);
            }
            match api.accept(answer).await {
                Ok(_) => {
                    findings.ok("API", format!("ready at {shown}"));
                    published::look(&api, findings).await;
                    return Ok(());
                }
                Err(failure) => failure,
            }
        }
        Err(failure) => failure,
    };
    let failure = failure.to_string();
    let mut lines = failure.lines();
    let found = lines.next().unwrap_or_default();
    let remedy = match lines.next() {
        Some(remedy) if remedy != NOT_RUNNING => remedy,
        _ => {
            "start `reveille up` or `reveille api`, or use --api URL for another address; if it is running, its log \
             says why it isn't ready"
        }
    };
    if named.is_some() {
        findings.problem("API", found, remedy);
    } else {
        findings.warning("API", found, remedy);
    }
    Ok(())
}

/// The API's address, and a client of it.
fn client(named: Option<&Url>, ca: Option<PathBuf>, data_dir: PathBuf) -> Result<(Url, ApiClient), Failure> {
    let api = ApiClient::new(&ApiAddress {
        api: named.cloned(),
        ca,
        key: None,
        data_dir: DataDirArg {
            data_dir: Some(data_dir),
        },
    })?;
    Ok((api.base().clone(), api))
}

/// Warns of a certificate that expires soon. An expired one has already failed the request.
fn expiry(validity: &Validity, now: SystemTime, findings: &mut Findings) {
    let last = validity.last_second();
    if now + EXPIRES_SOON > validity.not_after {
        findings.warning(
            "certificate",
            format!("expires at {last}"),
            "renew it and replace the files of --tls-cert and --tls-key; the API reloads them by itself",
        );
    } else {
        findings.ok("certificate", format!("valid until {last}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_certificate_that_expires_within_a_fortnight_is_a_warning() {
        let now = SystemTime::now();
        let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
        let level = |left: u64| {
            let mut findings = Findings::default();
            let validity = Validity {
                not_before: now - days(1),
                not_after: now + days(left),
            };
            expiry(&validity, now, &mut findings);
            findings.0[0].level
        };
        assert_eq!(level(15), Level::Ok);
        assert_eq!(level(13), Level::Warning);
    }
}
