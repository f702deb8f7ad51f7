//! The name by which one process is known to the others.

use reveille_agent::config::machine_name;
use uuid::Uuid;

/// How much of the machine's name is kept.
const MAX_HOST_CHARS: usize = 40;
/// How many characters make two processes of a machine differ.
const RANDOM_CHARS: usize = 8;

/// A name that no other process has: the machine's, made into one subject token, and something random.
pub fn name() -> String {
    let host: String = machine_name().as_str().chars().take(MAX_HOST_CHARS).collect();
    // The end of such an id is random; its beginning is the time.
    let id = Uuid::now_v7().simple().to_string();
    format!("{host}-{}", &id[id.len() - RANDOM_CHARS..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_subject_token_of_its_own() {
        let (one, other) = (name(), name());
        assert_ne!(one, other);
        assert!(reveille_domain::AgentName::parse(&one).is_ok(), "{one}");
    }
}
