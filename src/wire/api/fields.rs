//! Reads a JSON body field by field and collects every fault in the list shape of contract 1.0, so
//! that a caller sees all of them at once, each with its place.
//!
//! Leniency mirrors the contract: integers may be `5`, `"5"`, `5.0` or `true`; strings must be
//! strings; unknown fields are ignored.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::limits::HTTP_ECHO_BYTES_MAX;

/// One fault of a request, as it goes out in the 422 list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fault {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub loc: Vec<Value>,
    pub msg: String,
    pub input: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ctx: Option<Value>,
}

/// For whoever sees a text only: `FIELD: MSG`.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.loc.get(1).and_then(Value::as_str) {
            Some(field) => write!(f, "{field}: {}", self.msg),
            None => f.write_str(&self.msg),
        }
    }
}

/// All faults of one request; never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Invalid(pub Vec<Fault>);

impl Invalid {
    /// One fault of a field, found after the types were right (a value out of range, a path that
    /// leads elsewhere).
    pub fn value(
        place: &'static str,
        field: &str,
        msg: impl Into<String>,
        input: Value,
    ) -> Invalid {
        Invalid(vec![Fault {
            kind: "value_error",
            loc: vec![place.into(), field.into()],
            msg: msg.into(),
            input: echo(&input),
            ctx: None,
        }])
    }

    /// A parameter that must be there and is not.
    pub fn missing(place: &'static str, field: &str) -> Invalid {
        Invalid(vec![Fault {
            kind: "missing",
            loc: vec![place.into(), field.into()],
            msg: "Field required".to_owned(),
            input: Value::Null,
            ctx: None,
        }])
    }
}

/// Why a value is not of its type: the contract's `type` and `msg`, and where inside the field.
#[derive(Debug)]
pub struct Wrong {
    kind: &'static str,
    msg: &'static str,
    within: Vec<Value>,
    input: Value,
}

/// The fields of one JSON object, and what was wrong with those read so far.
#[derive(Debug)]
pub struct Fields {
    object: Map<String, Value>,
    faults: Vec<Fault>,
}

impl Fields {
    /// The object in `body`.
    ///
    /// # Errors
    /// No body, no JSON, or JSON that is no object.
    pub fn of_body(body: &[u8]) -> Result<Fields, Invalid> {
        if body.is_empty() {
            return Err(Invalid(vec![fault("missing", vec![], "Field required", Value::Null)]));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(object)) => Ok(Fields { object, faults: Vec::new() }),
            Ok(other) => Err(Invalid(vec![fault(
                "model_attributes_type",
                vec![],
                "Input should be a valid dictionary or object to extract fields from",
                other,
            )])),
            Err(error) => {
                let mut fault = fault(
                    "json_invalid",
                    vec![offset_of(body, &error).into()],
                    "JSON decode error",
                    json!({}),
                );
                fault.ctx = Some(json!({ "error": error.to_string() }));
                Err(Invalid(vec![fault]))
            }
        }
    }

    /// A field that must be there.
    pub fn need<T: Default>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Value) -> Result<T, Wrong>,
    ) -> T {
        if !self.object.contains_key(name) {
            let whole = echo(&self.object);
            self.faults.push(fault("missing", vec![name.into()], "Field required", whole));
            return T::default();
        }
        self.optional_as_given(name, read).unwrap_or_default()
    }

    /// A text that must be there, taken out of the body: it may be too large for a copy.
    pub fn need_text(&mut self, name: &'static str) -> String {
        match self.object.get_mut(name) {
            Some(Value::String(text)) => std::mem::take(text),
            _ => self.need(name, string),
        }
    }

    /// A field with a default; `null` is as wrong as any other type.
    pub fn or<T: Default>(
        &mut self,
        name: &'static str,
        default: T,
        read: impl FnOnce(&Value) -> Result<T, Wrong>,
    ) -> T {
        if self.object.contains_key(name) {
            self.optional_as_given(name, read).unwrap_or_default()
        } else {
            default
        }
    }

    /// A field that may be absent or `null`.
    pub fn option<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        match self.object.get(name) {
            None | Some(Value::Null) => None,
            Some(_) => self.optional_as_given(name, read),
        }
    }

    /// Notes a fault of a value whose type was right; of one that was wrong already, nothing more.
    pub fn refuse(&mut self, name: &'static str, msg: impl Into<String>) {
        if self.faults.iter().any(|fault| fault.loc.get(1) == Some(&name.into())) {
            return;
        }
        let input = self.object.get(name).cloned().unwrap_or(Value::Null);
        self.faults.extend(Invalid::value("body", name, msg, input).0);
    }

    /// What was wrong, for a caller that has seen a fault.
    pub fn into_faults(self) -> Invalid {
        Invalid(self.faults)
    }

    /// `value` if no field had a fault.
    ///
    /// # Errors
    /// All faults, in the order the fields were read.
    pub fn done<T>(self, value: T) -> Result<T, Invalid> {
        if self.faults.is_empty() { Ok(value) } else { Err(Invalid(self.faults)) }
    }

    fn optional_as_given<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        match read(self.object.get(name).unwrap_or(&Value::Null)) {
            Ok(value) => Some(value),
            Err(wrong) => {
                let mut loc = vec![name.into()];
                loc.extend(wrong.within);
                self.faults.push(fault(wrong.kind, loc, wrong.msg, wrong.input));
                None
            }
        }
    }
}

/// A whole number in any spelling of contract 1.0. Floats of 2^53 and above have lost digits
/// already and are refused (contract rule 1).
pub fn integer(value: &Value) -> Result<i64, Wrong> {
    const EXACT_FLOAT_LIMIT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Bool(flag) => Ok(i64::from(*flag)),
        Value::Number(number) => {
            if let Some(whole) = number.as_i64() {
                return Ok(whole);
            }
            match number.as_f64() {
                Some(float) if float.fract() != 0.0 => Err(wrong(
                    "int_from_float",
                    "Input should be a valid integer, got a number with a fractional part",
                    value,
                )),
                Some(float) if float.abs() < EXACT_FLOAT_LIMIT => Ok(float as i64),
                _ => {
                    Err(wrong("int_parsing_size", "Unable to represent this number exactly", value))
                }
            }
        }
        Value::String(text) => text.trim().parse().map_err(|_| {
            wrong(
                "int_parsing",
                "Input should be a valid integer, unable to parse string as an integer",
                value,
            )
        }),
        _ => Err(wrong("int_type", "Input should be a valid integer", value)),
    }
}

/// A truth value in any spelling of contract 1.0.
pub fn boolean(value: &Value) -> Result<bool, Wrong> {
    const MSG: &str = "Input should be a valid boolean, unable to interpret input";
    let known = match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) => boolean_word(text),
        Value::Number(number) if number.as_f64() == Some(0.0) => Some(false),
        Value::Number(number) if number.as_f64() == Some(1.0) => Some(true),
        Value::Number(_) => None,
        _ => return Err(wrong("bool_type", "Input should be a valid boolean", value)),
    };
    known.ok_or_else(|| wrong("bool_parsing", MSG, value))
}

/// A string, and nothing that would have to be turned into one.
pub fn string(value: &Value) -> Result<String, Wrong> {
    match value {
        Value::String(text) => Ok(text.clone()),
        _ => Err(wrong("string_type", "Input should be a valid string", value)),
    }
}

/// A list whose items `read` accepts; a fault names the item's index.
pub fn list<T>(
    read: impl Fn(&Value) -> Result<T, Wrong>,
) -> impl Fn(&Value) -> Result<Vec<T>, Wrong> {
    move |value| match value {
        Value::Array(items) => {
            items.iter().enumerate().map(|(at, item)| within(at.into(), read(item))).collect()
        }
        _ => Err(wrong("list_type", "Input should be a valid list", value)),
    }
}

/// An object of strings, in the order of the body.
pub fn string_pairs(value: &Value) -> Result<Vec<(String, String)>, Wrong> {
    match value {
        Value::Object(object) => object
            .iter()
            .map(|(key, item)| Ok((key.clone(), within(key.as_str().into(), string(item))?)))
            .collect(),
        _ => Err(wrong("dict_type", "Input should be a valid dictionary", value)),
    }
}

/// A query value in the contract's boolean spellings, any case.
pub fn boolean_word(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Some(true),
        "0" | "false" | "f" | "no" | "n" | "off" => Some(false),
        _ => None,
    }
}

fn within<T>(place: Value, read: Result<T, Wrong>) -> Result<T, Wrong> {
    read.map_err(|mut wrong| {
        wrong.within.insert(0, place);
        wrong
    })
}

fn wrong(kind: &'static str, msg: &'static str, input: &Value) -> Wrong {
    Wrong { kind, msg, within: Vec::new(), input: echo(input) }
}

fn fault(kind: &'static str, mut loc: Vec<Value>, msg: &str, input: Value) -> Fault {
    loc.insert(0, "body".into());
    Fault { kind, loc, msg: msg.to_owned(), input: echo(&input), ctx: None }
}

/// The input goes back to whoever sent it, but not a megabyte of it.
fn echo(input: &impl Serialize) -> Value {
    // What does not fit is not written out to see how long it is.
    let mut room = [0; HTTP_ECHO_BYTES_MAX];
    let fits = serde_json::to_writer(&mut room[..], input);
    fits.and_then(|()| serde_json::to_value(input)).unwrap_or_default()
}

fn offset_of(body: &[u8], error: &serde_json::Error) -> usize {
    let lines = body.split(|&byte| byte == b'\n').take(error.line().saturating_sub(1));
    lines.map(|line| line.len() + 1).sum::<usize>() + error.column().saturating_sub(1)
}

#[cfg(test)]
mod test {
    use super::*;

    fn one(result: Result<(), Invalid>) -> Fault {
        result.unwrap_err().0.remove(0)
    }

    #[test]
    fn integer_in_every_lenient_spelling_is_read() {
        for value in [json!(5), json!("5"), json!(5.0)] {
            assert_eq!(integer(&value).unwrap(), 5);
        }
        assert_eq!(integer(&json!(true)).unwrap(), 1);
    }

    #[test]
    fn float_that_has_lost_digits_is_refused() {
        assert!(integer(&json!(9_007_199_254_740_991.0)).is_ok());
        assert!(integer(&json!(9_007_199_254_740_992.0)).is_err());
        assert!(integer(&serde_json::from_str("7531103436712968193.0").unwrap()).is_err());
        assert!(integer(&serde_json::from_str("99999999999999999999").unwrap()).is_err());
    }

    #[test]
    fn missing_field_is_named_with_its_place() {
        let mut fields = Fields::of_body(b"{}").unwrap();
        fields.need("task_id", integer);
        let fault = one(fields.done(()));
        assert_eq!((fault.kind, fault.loc), ("missing", vec![json!("body"), json!("task_id")]));
    }

    #[test]
    fn fault_in_a_list_names_the_item() {
        let mut fields = Fields::of_body(br#"{"gpus":[0,"x"]}"#).unwrap();
        fields.option("gpus", list(integer));
        assert_eq!(one(fields.done(())).loc, vec![json!("body"), json!("gpus"), json!(1)]);
    }

    #[test]
    fn null_is_wrong_where_only_a_default_is_allowed() {
        let mut fields = Fields::of_body(br#"{"working_dir":null}"#).unwrap();
        fields.or("working_dir", String::new(), string);
        assert_eq!(one(fields.done(())).kind, "string_type");
    }

    #[test]
    fn broken_json_tells_the_offset() {
        let fault = one(Fields::of_body(b"{\"a\":\n x}").map(|_| ()));
        assert_eq!((fault.kind, fault.loc[1].clone()), ("json_invalid", json!(7)));
    }

    #[test]
    fn all_faults_of_a_body_are_told_at_once() {
        let mut fields = Fields::of_body(br#"{"command":1}"#).unwrap();
        fields.need("task_id", integer);
        fields.need("command", string);
        assert_eq!(fields.done(()).unwrap_err().0.len(), 2);
    }

    #[test]
    fn huge_input_is_not_echoed() {
        let fault = Invalid::value("body", "x", "m", json!("a".repeat(5000))).0.remove(0);
        assert_eq!(fault.input, Value::Null);
    }
}
