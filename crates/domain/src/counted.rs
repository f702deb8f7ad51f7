//! How many of what there are, for people.

use std::fmt::Display;

/// Such as `1 model` or `2 models`, for a word whose plural has an `s`.
#[must_use]
pub fn counted<N: Copy + Display + PartialEq + From<u8>>(count: N, what: &str) -> String {
    let ending = if count == N::from(1) { "" } else { "s" };
    format!("{count} {what}{ending}")
}

#[test]
fn only_one_is_singular() {
    assert_eq!(
        [0_usize, 1, 2].map(|count| counted(count, "model")),
        ["0 models", "1 model", "2 models"]
    );
}
