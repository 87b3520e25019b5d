//! Conditions that operators write, wherever they stand.

use crate::config::diagnose::{At, Need};
use crate::config::read::Table;
use crate::expression::{Expression, Mistake, Scope};

/// A condition over what is known in `scope`.
pub(super) fn read(table: &mut Table, key: &'static str, scope: Scope) -> Option<Expression> {
    let errors = table.errors;
    let At { value: source, place } = table.get::<String>(key)?;
    let compiled = Expression::compile(&source, scope);
    for (name, need) in [("client.country", Need::CountryFile), ("client.asn", Need::AsnFile)] {
        if compiled.as_ref().is_ok_and(|expression| expression.names(name)) {
            errors.need(need, place);
        }
    }
    for (listener, at) in compiled.iter().flat_map(|expression| expression.compared_with("listener")) {
        if !listener.is_empty() {
            errors.need(Need::Listener(listener.into()), errors.within(place, at));
        }
    }
    compiled
        .map_err(|Mistake { at, message, hint }| {
            let message = format!("{key:?} in {}: {message}", table.name);
            let place = errors.within(place, at);
            match hint {
                Some(hint) => errors.error_with_hint(place, message, hint),
                None => errors.error(place, message),
            }
        })
        .ok()
}
