//! Which known name was probably meant.

/// How similar two names are at least if one was meant by the other; 1 is equal.
const SIMILAR: f64 = 0.85;

/// The known name that was probably meant by another one.
#[must_use]
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.to_ascii_lowercase().replace(['_', '-'], "");
    let scored = known
        .into_iter()
        .map(|known| (known, strsim::jaro_winkler(&plain(known), &plain(given))));
    let (meant, score) = scored.max_by(|(_, one), (_, other)| one.total_cmp(other))?;
    (score >= SIMILAR).then_some(meant)
}
