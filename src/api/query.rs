//! Query parameters of our own rows, with the contract's leniency and error shape.

use super::fault::Fault;
use crate::serve::Call;
use crate::wire::api::fields::{Invalid, boolean_word};

/// A flag that is false unless given.
///
/// # Errors
/// 422 for a word that is no boolean (contract 1.0).
pub fn flag(call: &Call, name: &str) -> Result<bool, Fault> {
    let Some(text) = call.query(name) else { return Ok(false) };
    boolean_word(text).ok_or_else(|| {
        let msg = "Input should be a valid boolean, unable to interpret input";
        Invalid::value("query", name, msg, text.into()).into()
    })
}

/// A whole number that is 0 unless given.
///
/// # Errors
/// 422 for anything else.
pub fn number(call: &Call, name: &str) -> Result<u64, Fault> {
    let Some(text) = call.query(name) else { return Ok(0) };
    text.parse().map_err(|_| {
        Invalid::value("query", name, "must be a whole number from 0", text.into()).into()
    })
}
