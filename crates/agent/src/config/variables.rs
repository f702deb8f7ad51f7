//! `${NAME}` in the strings of the config; `$${` is a literal `${`.

/// A part of a string.
enum Part<'a> {
    Text(&'a str),
    Variable(&'a str),
    /// `${` without `}`.
    Unclosed,
}

/// Splits a string into its parts, in order.
fn parts(mut rest: &str) -> impl Iterator<Item = Part<'_>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some(start) = rest.find("${") else {
            return Some(Part::Text(std::mem::take(&mut rest)));
        };
        if start == 0 {
            let Some((name, after)) = rest[2..].split_once('}') else {
                rest = "";
                return Some(Part::Unclosed);
            };
            rest = after;
            return Some(Part::Variable(name));
        }
        if rest[..start].ends_with('$') {
            // The first `$` only escapes: what follows is taken as it is.
            let (before, after) = (&rest[..start - 1], &rest[start..]);
            if !before.is_empty() {
                rest = &rest[start - 1..];
                return Some(Part::Text(before));
            }
            rest = &after[2..];
            return Some(Part::Text(&after[..2]));
        }
        let (before, after) = rest.split_at(start);
        rest = after;
        Some(Part::Text(before))
    })
}

/// The names of the variables in `raw`, in order.
pub(super) fn names(raw: &str) -> Vec<String> {
    let name = |part| match part {
        Part::Variable(name) => Some(name.to_owned()),
        Part::Text(_) | Part::Unclosed => None,
    };
    parts(raw).filter_map(name).collect()
}

/// Replaces each variable in `raw` by its value, which isn't searched for variables again.
pub(super) fn interpolate(raw: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut filled = String::with_capacity(raw.len());
    for part in parts(raw) {
        match part {
            Part::Text(text) => filled.push_str(text),
            Part::Unclosed => return Err("has `${` without `}`".to_owned()),
            Part::Variable(name) if name.is_empty() || !name.chars().all(legal) => {
                return Err("has `${…}` around something that isn't a variable's name".to_owned());
            }
            Part::Variable(name) => {
                filled.push_str(
                    &env(name).ok_or_else(|| format!("the environment variable {name} is not set"))?,
                );
            }
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in_once_and_can_be_escaped() {
        let env = |name: &str| (name == "A").then(|| "1${A}".to_owned());
        for (raw, filled) in [
            ("plain $5 $", "plain $5 $"),
            ("x${A}y${A}", "x1${A}y1${A}"),
            ("$${A}", "${A}"),
            ("a$${b ${A}", "a${b 1${A}"),
            ("$$${A}", "$${A}"),
        ] {
            assert_eq!(interpolate(raw, &env).as_deref(), Ok(filled), "{raw}");
        }
        for raw in ["${B}", "${A", "${}", "${A B}"] {
            assert!(interpolate(raw, &env).is_err(), "{raw}");
        }
    }
}
