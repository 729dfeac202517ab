//! Reads secrets from AWS Secrets Manager.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::SdkError;
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;

use agent_types::error::{Error, Result};

/// Reads the value of a secret. `field` selects a field of a JSON object; it can also follow the name, as in
/// `name#field`.
///
/// # Errors
/// Usage, if the secret or the field does not exist; upstream, if AWS does not answer or denies access.
/// Messages never contain the value.
#[tracing::instrument(name = "secrets-manager", skip_all, fields(call = "get", id = name_or_arn))]
pub async fn secret(name_or_arn: &str, field: Option<&str>) -> Result<String> {
    let (name, field) = match (name_or_arn.split_once('#'), field) {
        (Some((name, written)), None) => (name, Some(written)),
        _ => (name_or_arn, field),
    };
    let sdk = super::sdk().await;
    if sdk.region().is_none() {
        return Err(Error::usage(format!("the AWS region of the secret `{name}` is unknown"))
            .hint("set AWS_REGION to the secret's region"));
    }
    let answer = Client::new(&sdk)
        .get_secret_value()
        .secret_id(name)
        .send()
        .await
        .map_err(|error| refused(name, &error))?;
    let text = answer.secret_string().ok_or_else(|| {
        Error::usage(format!("the secret `{name}` is binary")).hint("store the token as text")
    })?;
    match field {
        Some(field) => json_field(name, text, field),
        None => whole(name, text),
    }
}

/// A secret that is one value. JSON is rejected: it is not a token, and the values in it would not be redacted.
fn whole(name: &str, text: &str) -> Result<String> {
    use serde_json::Value;
    let said = |what: &str| Error::usage(format!("the secret `{name}` is {what}"));
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => {
            let names: Vec<String> = fields.keys().map(|field| format!("`{name}#{field}`")).collect();
            Err(said("a JSON object, and no field is selected").hint(match names.as_slice() {
                [] => "the object is empty: store the token in the secret".to_owned(),
                names => format!("use one of {}", names.join(", ")),
            }))
        }
        Ok(Value::Array(_)) => Err(said("a JSON array").hint("store the token alone, or in a field")),
        Ok(Value::String(_)) => Err(said("a JSON string").hint("store the token without quotes")),
        // A number is valid JSON, but also a valid token. Editors and shells add a newline.
        _ => match text.trim() {
            "" => Err(said("empty").hint("store the token in the secret")),
            token => Ok(token.to_owned()),
        },
    }
}

fn json_field(name: &str, text: &str, field: &str) -> Result<String> {
    // serde_json's message may quote the text, so it is dropped.
    let value: serde_json::Value = serde_json::from_str(text).map_err(|_| {
        Error::usage(format!("the secret `{name}` is not JSON, so it has no field `{field}`"))
            .hint(format!("write `{name}` without `#{field}`"))
    })?;
    match value.get(field) {
        Some(serde_json::Value::String(value)) => Ok(value.clone()),
        Some(_) => Err(Error::usage(format!("the field `{field}` of the secret `{name}` is not text"))),
        None => {
            let fields =
                value.as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>().join(", "));
            Err(Error::usage(format!("the secret `{name}` has no field `{field}`"))
                .hint(format!("its fields: {}", fields.unwrap_or_default())))
        }
    }
}

fn refused(name: &str, error: &SdkError<GetSecretValueError>) -> Error {
    let message = format!("cannot read the secret `{name}`");
    match error {
        SdkError::ServiceError(answer) if answer.err().is_resource_not_found_exception() => {
            Error::usage(format!("the secret `{name}` does not exist"))
                .because(error)
                .hint("check its name, the region (AWS_REGION) and the account")
        }
        SdkError::ServiceError(answer) => {
            let code = answer.err().meta().code().unwrap_or_default();
            Error::upstream(message).because(error).hint(match code {
                "AccessDeniedException" => {
                    "allow this role secretsmanager:GetSecretValue on the secret (and kms:Decrypt on its key)"
                        .into()
                }
                _ => super::refusal_hint(code, "secretsmanager:GetSecretValue"),
            })
        }
        SdkError::DispatchFailure(failure) if !failure.is_io() && !failure.is_timeout() => {
            Error::upstream(message).because(error).hint(
                "set credentials: a role for the build, AWS_PROFILE, or AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY",
            )
        }
        _ => Error::upstream(message)
            .because(error)
            .hint("check the network: Secrets Manager must be reachable from this machine"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rejects_json_without_a_field() {
        for (text, hint) in [
            (r#"{"token":"s3cr3t","user":"s3cr3t"}"#, "`n#token`, `n#user`"),
            (" {\n}", "store the token"),
            (r#"["s3cr3t"]"#, "alone"),
            (r#""s3cr3t""#, "without quotes"),
            (" \n", "store the token"),
        ] {
            let error = whole("n", text).unwrap_err();
            assert_eq!(error.class, agent_types::error::Class::Usage, "{text}");
            let said = error.to_string();
            assert!(said.contains(hint) && !said.contains("s3cr3t"), "{text}: {said}");
        }
        for (text, token) in [("s3cr3t\n", "s3cr3t"), ("123456", "123456"), ("{s3cr3t", "{s3cr3t")] {
            assert_eq!(whole("n", text).unwrap(), token);
        }
    }

    #[test]
    fn reads_a_text_field_and_never_shows_values_in_errors() {
        let text = r#"{"token":"s3cr3t","count":5}"#;
        assert_eq!(json_field("n", text, "token").unwrap(), "s3cr3t");
        for (text, field) in [(text, "tokn"), (text, "count"), ("s3cr3t", "token"), (r#"["s3cr3t"]"#, "x")] {
            let error = json_field("n", text, field).unwrap_err();
            assert_eq!(error.class, agent_types::error::Class::Usage, "{field}");
            assert!(!error.to_string().contains("s3cr3t"), "{error}");
        }
        assert!(json_field("n", text, "tokn").unwrap_err().to_string().contains("count, token"));
    }
}
