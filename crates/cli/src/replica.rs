//! The name by which one process is known to the others.

use uuid::Uuid;

/// How much of the machine's name is kept.
const MAX_HOST_CHARS: usize = 40;
/// How many characters make two processes of a machine differ.
const RANDOM_CHARS: usize = 8;

/// A name that no other process has: the machine's, made into one subject token, and something random.
pub fn name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    named(&host)
}

fn named(host: &str) -> String {
    let first_label = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let token: String = first_label
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .skip_while(|c| *c == '-')
        .take(MAX_HOST_CHARS)
        .collect();
    let token = if token.is_empty() { "host" } else { &token };
    // The end of such an id is random; its beginning is the time.
    let id = Uuid::now_v7().simple().to_string();
    format!("{token}-{}", &id[id.len() - RANDOM_CHARS..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_subject_token_of_its_own() {
        for host in ["gpu-box", "GPU Box.lan", "...", "", "日本", &"x".repeat(300)] {
            let (one, other) = (named(host), named(host));
            assert_ne!(one, other);
            assert!(
                reveille_domain::AgentName::parse(&one).is_ok(),
                "{host} became {one}"
            );
        }
    }
}
