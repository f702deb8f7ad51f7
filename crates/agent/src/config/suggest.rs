//! What somebody probably meant: the known word nearest to a mistyped one, and a legal name for an illegal one.

use reveille_domain::MAX_TOKEN_BYTES;

/// From this Jaro-Winkler similarity on, one word is suggested for another.
const SIMILAR: f64 = 0.85;

/// The known word that was probably meant, whatever its case and its dashes.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |word: &str| word.to_ascii_lowercase().replace(['_', '-'], "");
    let meant = plain(word);
    let scored = known
        .into_iter()
        .map(|known| (known, strsim::jaro_winkler(&plain(known), &meant)));
    let (nearest, score) = scored.max_by(|(_, one), (_, other)| one.total_cmp(other))?;
    (score >= SIMILAR).then_some(nearest)
}

/// The name of an agent, a provider or a group that is nearest to `raw`; it may be empty.
pub(super) fn legal_name(raw: &str) -> String {
    let legal = raw
        .trim()
        .to_ascii_lowercase()
        .replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "-");
    let name = legal.trim_start_matches(['-', '_']);
    name[..name.len().min(MAX_TOKEN_BYTES)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_word_is_recognized_and_another_is_not() {
        let known = ["idle_after", "min_awake", "type"];
        for (word, meant) in [
            ("idle_afer", Some("idle_after")),
            ("Idle-After", Some("idle_after")),
            ("typ", Some("type")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
        assert_eq!(nearest("a", []), None);
    }

    #[test]
    fn an_illegal_name_has_a_legal_form() {
        for (raw, name) in [
            ("GPU-Box", "gpu-box"),
            (" my box ", "my-box"),
            ("qwen2.5:7b", "qwen2-5-7b"),
            ("_x", "x"),
            ("日本", ""),
        ] {
            assert_eq!(legal_name(raw), name, "{raw}");
        }
        assert_eq!(legal_name(&"a".repeat(100)).len(), MAX_TOKEN_BYTES);
    }
}
