//! A unique name for each process.

use reveille_agent::config::machine_name;
use uuid::Uuid;

/// How much of the machine's name to keep.
const MAX_HOST_CHARS: usize = 40;
/// How many random characters tell apart two processes on a machine.
const RANDOM_CHARS: usize = 8;

/// The machine's name and a random suffix, as one subject token.
pub fn name() -> String {
    let host: String = machine_name().as_str().chars().take(MAX_HOST_CHARS).collect();
    // Such an id begins with the time and ends with random bits.
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
