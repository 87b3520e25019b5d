//! Words that somebody may have meant who wrote another.

/// The candidate that the operator most likely meant, if any is close enough.
pub(crate) fn did_you_mean<'c>(written: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let allowed = (written.chars().count() / 3).clamp(1, 3);
    let measured = candidates.into_iter().map(|candidate| (strsim::osa_distance(written, candidate), candidate));
    let close = measured.filter(|(distance, _)| *distance <= allowed);
    close.min().map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::did_you_mean;

    #[test]
    fn a_misspelt_word_finds_the_one_that_was_meant() {
        let keys = ["origins", "balance", "fallback", "health"];
        for (written, meant) in [
            ("orgins", Some("origins")),
            ("origin", Some("origins")),
            ("balanec", Some("balance")),
            ("fall_back", Some("fallback")),
            ("timeout", None),
            ("x", None),
        ] {
            assert_eq!(did_you_mean(written, keys), meant, "{written}");
        }
    }
}
