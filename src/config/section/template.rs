//! Templates that operators write, wherever they stand.

use crate::config::diagnose::{Diagnostics, Need, Place};
use crate::expression::Variable;
use crate::template::{Form, Template, Value};

/// Reads a template; `captures`: what there is for `{1}` and so on. The error says what is wrong with it.
pub(super) fn parse(
    text: &str,
    form: Form,
    captures: usize,
    place: Place,
    errors: &Diagnostics,
) -> Result<Template, String> {
    let template = Template::parse(text, form, captures).map_err(|(_, why)| why)?;
    for value in template.values() {
        match value {
            Value::Of(Variable::Country) => errors.need(Need::CountryFile, place),
            Value::ClientAsn => errors.need(Need::AsnFile, place),
            _ => {}
        }
    }
    Ok(template)
}
