//! The names by which backends read one and the same parameter of a request.

/// Each row is one parameter that backends have by several names. A backend may read any of them on any path, at the top level of a
/// request or among its `options`: llama.cpp takes its own names on the paths of OpenAI and Anthropic, and an Ollama's `/api/chat` may
/// be served by it too.
const SYNONYMS: [&[&str]; 8] = [
    &[
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "max_tokens_to_sample",
        "max_new_tokens",
        "n_predict",
        "num_predict",
    ],
    &["stop", "stop_sequences", "stop_sequence"],
    &["seed", "random_seed", "sampler_seed"],
    &["repeat_penalty", "repetition_penalty", "rep_pen"],
    &["repeat_last_n", "rep_pen_range"],
    &["typical_p", "typ_p", "typical"],
    &["num_ctx", "n_ctx"],
    &["num_keep", "n_keep"],
];

/// Other places of a parameter, by its name: an object of the request, and the field there. The same value stands for the same thing.
const NESTED: [(&str, &str, &str); 3] = [
    ("reasoning_effort", "reasoning", "effort"),
    ("reasoning_effort", "output_config", "effort"),
    ("reasoning_effort", "chat_template_kwargs", "reasoning_effort"),
];

/// All names of a parameter, this one first.
pub(crate) fn synonyms(name: &str) -> Vec<&str> {
    let row = SYNONYMS.iter().find(|row| row.contains(&name));
    let others = row.into_iter().flat_map(|row| row.iter().copied());
    let others = others.filter(|other| *other != name);
    std::iter::once(name).chain(others).collect()
}

/// The objects of a request that may have a parameter too, and by which name.
pub(crate) fn nested(name: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let of_name = NESTED.iter().filter(move |(of, ..)| *of == name);
    of_name.map(|(_, object, field)| (*object, *field))
}

/// Whether some backend reads both names as the same parameter. Backends in Go ignore the case of a name.
pub(crate) fn mean_the_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.to_lowercase(), other.to_lowercase());
    one == other || synonyms(&one).contains(&other.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_in_one_row_and_has_all_others_of_it() {
        for row in SYNONYMS {
            for name in row {
                let all = synonyms(name);
                assert_eq!((all[0], all.len()), (*name, row.len()), "{name}");
                assert_eq!(
                    SYNONYMS.iter().filter(|row| row.contains(name)).count(),
                    1,
                    "{name}"
                );
            }
        }
        assert_eq!(synonyms("temperature"), ["temperature"]);
        assert!(mean_the_same("Repeat_Penalty", "repetition_penalty") && !mean_the_same("top_k", "top_p"));
    }
}
