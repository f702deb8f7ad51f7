//! The backends of a config: whether they answer, which models they list, and whether their recipes' programs exist.

use super::Findings;
use reveille_agent::{
    BackendClient,
    config::ProviderConfig,
    local_checks::{LocalCheck, local_checks},
    models::{Memory, discover},
    probe::{Probe, Unavailable},
};
use reveille_domain::counted;

/// Checks one provider.
pub async fn look(
    client: &BackendClient,
    provider: &ProviderConfig,
    memory: &Memory,
    findings: &mut Findings,
) {
    let check = format!("provider {}", provider.name);
    if provider.trust.skip_verify {
        findings.warning(
            check.as_str(),
            format!("the certificate of {} is not verified (`insecure_skip_verify`)", provider.base_url),
            "name the file of its certificate or of its authority in `ca` instead: now anyone on the network path \
             can read and change everything",
        );
    }
    let probe = Probe::new(client.clone(), provider);
    match probe.check_and_identify().await {
        Ok(()) => models(client, provider, &check, findings).await,
        Err(why) if why.stranger => stranger(&probe, provider, &why, &check, findings).await,
        Err(why) => {
            unavailable(provider, &why, &check, findings);
            let is_backend = !why.is_hub_itself();
            if is_backend && provider.models.is_none() && memory.recall(&provider.name).models.is_empty() {
                findings.warning(
                    check.as_str(),
                    "its models are unknown: the config lists none, and it was never up while the agent was running",
                    "list its `models` in the config, or start it once: the agent remembers its models",
                );
            }
        }
    }
    local(provider, &check, findings);
}

async fn models(client: &BackendClient, provider: &ProviderConfig, check: &str, findings: &mut Findings) {
    let url = &provider.base_url;
    let listed = discover(client.clone(), provider.clone(), None).await;
    let listed = listed.filter(|listed| !listed.models.is_empty());
    let found = match (&provider.models, listed) {
        (None, None) => {
            let found = format!("available at {url}, but lists no models");
            let remedy = "load a model there, or list its `models` in the config";
            return findings.problem(check, found, remedy);
        }
        (None, Some(listed)) => format!(
            "available at {url}, lists {}",
            counted(listed.models.len(), "model")
        ),
        (Some(named), None) => format!(
            "available at {url}; the config lists {}",
            counted(named.len(), "model")
        ),
        (Some(named), Some(listed)) => {
            if let Some(model) = listed.lacks(named) {
                let found = format!("available at {url}, but doesn't list the configured model `{model}`");
                let remedy = "correct `models` in the config, or load the model there";
                return findings.warning(check, found, remedy);
            }
            format!(
                "available at {url}, with the configured {}",
                counted(named.len(), "model")
            )
        }
    };
    findings.ok(check, found);
}

/// Another server answers.
async fn stranger(
    probe: &Probe,
    provider: &ProviderConfig,
    why: &Unavailable,
    check: &str,
    findings: &mut Findings,
) {
    let taken = match probe.port() {
        Some(port) => port.taken().await,
        None => None,
    };
    let taken = taken.map(|taken| format!(" ({taken})")).unwrap_or_default();
    let found = format!("not available at {}: {}{taken}", provider.base_url, why.reason);
    let remedy = "correct `base_url` or `models` in the config, or end the program that listens there";
    if provider.wake.is_some() {
        // A wake may replace it: several providers may take turns on one port.
        findings.warning(check, found, remedy);
    } else {
        findings.problem(check, found, remedy);
    }
}

fn unavailable(provider: &ProviderConfig, why: &Unavailable, check: &str, findings: &mut Findings) {
    let url = &provider.base_url;
    if why.is_hub_itself() {
        findings.problem(
            check,
            format!("refused: what answers at {url} is the hub itself"),
            "set base_url to the backend's own address: as it is, requests would go in a circle",
        );
    } else if why.asleep {
        findings.ok(check, format!("asleep at {url}, according to its probe"));
    } else if why.refused && provider.wake.is_some() {
        findings.ok(
            check,
            format!("asleep: nothing listens at {url}; a request starts its [provider.wake]"),
        );
    } else if why.refused {
        findings.problem(
            check,
            format!("nothing listens at {url}, and there is no [provider.wake] to start it"),
            "start the backend, correct base_url, or add a [provider.wake]",
        );
    } else {
        let remedy = match why.reason.as_str() {
            "HTTP status 401" | "HTTP status 403" => "set its api_key in the config",
            "HTTP status 404" => "correct base_url, or add a `probe` with a path that exists",
            reason if reason.contains("not trusted") || reason.contains("isn't trusted") => {
                "name the PEM file of that certificate, or of the authority that issued it, in `ca`"
            }
            reason if reason.contains("certificate") => {
                "renew the backend's certificate, or correct base_url"
            }
            reason if reason.contains("URL must begin") => "correct base_url",
            _ => "check the backend's log, and that base_url is correct",
        };
        let found = format!("the probe at {url} fails: {}", why.reason);
        if provider.wake.is_some() {
            findings.warning(check, found, remedy);
        } else {
            findings.problem(check, found, remedy);
        }
    }
}

fn local(provider: &ProviderConfig, check: &str, findings: &mut Findings) {
    for local in local_checks(provider) {
        match local {
            LocalCheck::Ok(found) => findings.ok(check, found),
            LocalCheck::Mistake { found, remedy } => findings.problem(check, found, remedy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use reveille_agent::{config::Config, fetch};
    use reveille_domain::AgentName;

    fn provider(lines: &str) -> ProviderConfig {
        let text = format!("[[provider]]\nname = \"box\"\nmodels = [\"m\"]\n{lines}");
        let mut config = Config::parse(&text, "test.toml", &|_| None).expect("a config");
        config.providers.remove(0)
    }

    #[tokio::test]
    async fn a_certificate_that_is_not_verified_is_a_warning() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let memory = Memory::open(None, &AgentName::parse("gpu-box").expect("legal"));
        for (skip, warnings) in [("", 0), ("insecure_skip_verify = true", 1)] {
            // Nobody listens there.
            let provider = provider(&format!("base_url = \"https://127.0.0.1:1\"\n{skip}"));
            let client = fetch::client_for(&provider.trust, None).expect("a client");
            let mut findings = Findings::default();
            look(&client.into(), &provider, &memory, &mut findings).await;
            let found = findings.0.iter().filter(|finding| {
                finding.level == Level::Warning
                    && finding.found.contains("is not verified (`insecure_skip_verify`)")
            });
            assert_eq!(found.count(), warnings, "{:?}", findings.0);
        }
    }

    #[test]
    fn each_reason_of_an_unavailable_backend_has_its_own_remedy() {
        let provider = provider("base_url = \"https://127.0.0.1:1\"");
        for (reason, remedy) in [
            ("HTTP status 401", "set its api_key"),
            ("HTTP status 404", "add a `probe`"),
            (
                "the server's certificate (box) is self-signed and not trusted: name its file in `ca`",
                "in `ca`",
            ),
            (
                "the server's certificate (box) was issued by Me, which isn't trusted: name that authority's file in `ca`",
                "in `ca`",
            ),
            (
                "the server's certificate (box) expired at 2021-01-01T00:00:00Z",
                "renew the backend's certificate",
            ),
            (
                "the server speaks TLS there, so its URL must begin with https://",
                "correct base_url",
            ),
            ("no answer within 2s", "check the backend's log"),
        ] {
            let why = Unavailable {
                asleep: false,
                refused: false,
                failed: false,
                no_files: false,
                is_hub: Some(false),
                stranger: false,
                other_models: false,
                reason: reason.to_owned(),
            };
            let mut findings = Findings::default();
            unavailable(&provider, &why, "provider box", &mut findings);
            let [finding] = findings.0.as_slice() else {
                panic!("one finding: {:?}", findings.0)
            };
            assert_eq!(finding.level, Level::Problem);
            assert!(finding.found.ends_with(reason), "{}", finding.found);
            let told = finding.remedy.as_deref().unwrap_or_default();
            assert!(told.contains(remedy), "{reason}: {told}");
        }
    }
}
