//! JSON text on the boundary, values on this side of it.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, bindings::reverie::handler::config, hub};

/// Answers the client whose message is being handled or, in a job, whose job this is. The host adds the `id` of the
/// client's message.
///
/// # Errors
/// `reply` is no JSON object, or it is over the host's limit.
pub fn reply(reply: &impl Serialize) -> Result<(), Error> {
    hub::reply(&write(reply)?)
}

/// The operator's settings for this plugin: the table `[plugins.NAME.config]`. Give every field of `T` a default, for
/// the table may be missing.
///
/// # Errors
/// The table does not fit `T`.
pub fn config<T: DeserializeOwned>() -> Result<T, Error> {
    read(&config::get()).map_err(|e| Error::internal(format!("the plugin's config table: {e}")))
}

/// Reads a value; the error says what was wrong, without a position in a text that nobody sees.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        match message.rfind(" at line ") {
            Some(end) => message[..end].to_owned(),
            None => message,
        }
    })
}

pub(crate) fn write(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| Error::internal(format!("cannot write JSON: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_field_and_not_the_position() {
        #[derive(Debug, serde::Deserialize)]
        struct Greet {
            #[allow(dead_code, reason = "only its absence matters")]
            name: String,
        }
        assert_eq!(read::<Greet>("{}").unwrap_err(), "missing field `name`");
    }
}
