//! Requests to AWS services whose SDK the agent does not have: signed with Signature Version 4.

use std::time::{Duration, SystemTime};

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials as Keys;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use reqwest::Method;

use agent_types::error::{Error, Result};

/// Time limit of one try.
const REQUEST: Duration = Duration::from_secs(30);

/// Pauses before the second and the third try.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// Maximum bytes of an answer.
const LARGEST: usize = 1 << 20;

/// A request to sign. It must be safe to send it twice.
#[derive(Clone, Debug)]
pub struct SignedRequest<'a> {
    /// The name in the signature, e.g. `states`.
    pub service: &'a str,
    /// `None`: the region that the SDK finds.
    pub region: Option<&'a str>,
    pub caller: Caller<'a>,
    pub method: Method,
    pub url: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a str,
}

/// Whose credentials sign a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller<'a> {
    /// The agent's own, as the SDK finds them.
    Agent,
    /// A named profile of the AWS configuration.
    Profile(&'a str),
}

/// An answer, of success or of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The code of a refusal, e.g. `TaskTimedOut`.
    pub fn code(&self) -> String {
        let json: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        let code = json.get("__type").or_else(|| json.get("code")).and_then(serde_json::Value::as_str);
        // `com.amazonaws.service#Code` in the JSON protocol.
        let code = code.and_then(|code| code.rsplit('#').next());
        code.map_or_else(|| format!("HTTP status {}", self.status), str::to_owned)
    }

    /// What AWS says about a refusal, in words.
    pub fn message(&self) -> Option<String> {
        let json: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        let message = json.get("message").or_else(|| json.get("Message"))?;
        message.as_str().map(str::to_owned)
    }

    /// The body of a success.
    ///
    /// # Errors
    /// Upstream, with AWS's code. `action` is the IAM action that the request needs.
    pub fn success(self, what: &str, action: &str) -> Result<String> {
        if self.is_success() {
            return Ok(self.body);
        }
        let code = self.code();
        let hint = super::refusal_hint(&code, action);
        Err(Error::upstream(format!("AWS refused {what}: {code}")).hint(hint))
    }
}

/// Temporary or permanent keys of a caller.
#[derive(Clone)]
pub struct CallerKeys {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
    pub expires: Option<SystemTime>,
}

/// The keys of a caller, and nothing else that this machine may do.
///
/// # Errors
/// Usage, if there are none.
#[tracing::instrument(name = "credentials", skip_all, fields(?caller))]
pub async fn keys(caller: Caller<'_>) -> Result<CallerKeys> {
    let keys = sdk_keys(caller).await?;
    Ok(CallerKeys {
        access_key_id: keys.access_key_id().to_owned(),
        secret_access_key: keys.secret_access_key().to_owned(),
        session_token: keys.session_token().map(str::to_owned),
        expires: keys.expiry(),
    })
}

async fn sdk_keys(caller: Caller<'_>) -> Result<Keys> {
    match caller {
        Caller::Agent => {
            let sdk = super::sdk().await;
            let none = || {
                Error::usage("there are no AWS credentials")
                    .hint("set a role, AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
            };
            let provider = sdk.credentials_provider().ok_or_else(none)?;
            provider.provide_credentials().await.map_err(|error| none().because(&error))
        }
        Caller::Profile(name) => {
            // The default chain would prefer keys in the environment to those of the profile.
            let provider = ProfileFileCredentialsProvider::builder()
                .configure(&ProviderConfig::with_default_region().await)
                .profile_name(name)
                .build();
            provider.provide_credentials().await.map_err(|error| {
                Error::usage(format!("the AWS profile `{name}` has no usable credentials"))
                    .because(&error)
                    .hint(format!("check [profile {name}] of the AWS configuration: `aws sts get-caller-identity --profile {name}`"))
            })
        }
    }
}

/// The version of the JSON protocol that a service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonVersion {
    V1_0,
    V1_1,
}

/// Calls an operation of a service with the JSON protocol, e.g. `AWSStepFunctions.SendTaskSuccess`. `endpoint_id`: the
/// service's id for endpoints (`AWS_ENDPOINT_URL_SFN` has `sfn`); `service`: its name in host names and signatures.
///
/// # Errors
/// Upstream, if AWS does not answer; usage, if there are no credentials or no region.
#[tracing::instrument(name = "aws", skip_all, fields(operation))]
pub async fn call_json(
    endpoint_id: &str,
    service: &str,
    version: JsonVersion,
    operation: &str,
    body: &serde_json::Value,
) -> Result<Answer> {
    let sdk = super::sdk().await;
    let region = sdk.region().map(|region| region.as_ref().to_owned());
    let configured = super::endpoint(&sdk, endpoint_id);
    let url = match (&configured, &region) {
        (Some(endpoint), _) => endpoint.clone(),
        (None, Some(region)) => {
            let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
            format!("https://{service}.{region}.{domain}/")
        }
        (None, None) => {
            return Err(
                Error::usage(format!("the AWS region for {operation} is unknown")).hint("set AWS_REGION")
            );
        }
    };
    let body = body.to_string();
    let content_type = match version {
        JsonVersion::V1_0 => "application/x-amz-json-1.0",
        JsonVersion::V1_1 => "application/x-amz-json-1.1",
    };
    let request = SignedRequest {
        service,
        region: Some(region.as_deref().unwrap_or("us-east-1")), // any will do for an endpoint of one's own
        caller: Caller::Agent,
        method: Method::POST,
        url: &url,
        headers: &[("content-type", content_type), ("x-amz-target", operation)],
        body: &body,
    };
    send(&request).await
}

/// The endpoint that the AWS configuration names for a service, e.g. `AWS_ENDPOINT_URL_IOT_DEVICE_TESTER` for
/// `iot device tester`.
pub async fn configured_endpoint(service_id: &str) -> Option<String> {
    super::endpoint(&super::sdk().await, service_id)
}

/// Sends a request, up to three times.
///
/// # Errors
/// Upstream, if there is no answer; usage, if the URL is invalid, or there are no credentials or no region.
pub async fn send(request: &SignedRequest<'_>) -> Result<Answer> {
    let client =
        reqwest::Client::builder().timeout(REQUEST).redirect(reqwest::redirect::Policy::none()).build();
    let client = client.map_err(|error| Error::machine("cannot set up HTTPS").because(&error))?;
    let region = match request.region {
        Some(region) => region.to_owned(),
        None => {
            let found = super::sdk().await.region().map(|region| region.as_ref().to_owned());
            found.ok_or_else(|| Error::usage("the AWS region is unknown").hint("set AWS_REGION"))?
        }
    };
    let mut pauses = PAUSES.into_iter();
    loop {
        let answer = try_once(&client, request, &region).await;
        let again = match &answer {
            Ok(answer) => answer.status == 429 || answer.status >= 500,
            Err(error) => error.class == agent_types::error::Class::Upstream,
        };
        match pauses.next().filter(|_| again) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return answer,
        }
    }
}

async fn try_once(client: &reqwest::Client, request: &SignedRequest<'_>, region: &str) -> Result<Answer> {
    let keys = sdk_keys(request.caller).await?;
    let signed = signature_headers(request, region, keys, SystemTime::now())?;
    let host = || {
        let url = url::Url::parse(request.url).ok();
        url.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_else(|| request.service.to_owned())
    };
    let mut sending = client.request(request.method.clone(), request.url).body(request.body.to_owned());
    for (name, value) in request.headers {
        sending = sending.header(*name, *value);
    }
    for (name, value) in signed {
        sending = sending.header(name, value);
    }
    let failed = |error: reqwest::Error| {
        Error::upstream(format!("no answer from {}", host()))
            .because(&error.without_url())
            .hint("check the network")
    };
    let mut response = sending.send().await.map_err(failed)?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > LARGEST {
            return Err(Error::upstream(format!("the answer of {} is larger than {LARGEST} bytes", host())));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

/// The headers that sign the request.
fn signature_headers(
    request: &SignedRequest<'_>,
    region: &str,
    keys: Keys,
    time: SystemTime,
) -> Result<Vec<(String, String)>> {
    let invalid = |error: &(dyn std::error::Error + 'static)| {
        Error::internal(format!("cannot sign a request to {}", request.service)).because(error)
    };
    let identity = keys.into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(request.service)
        .time(time)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| invalid(&error))?
        .into();
    let body = SignableBody::Bytes(request.body.as_bytes());
    let signable =
        SignableRequest::new(request.method.as_str(), request.url, request.headers.iter().copied(), body)
            .map_err(|error| invalid(&error))?;
    let (instructions, _) = sign(signable, &params).map_err(|error| invalid(&error))?.into_parts();
    Ok(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The example `get-vanilla` of AWS's test suite for signatures.
    #[test]
    fn signs_as_aws_documents() {
        let request = SignedRequest {
            service: "service",
            region: None,
            caller: Caller::Agent,
            method: Method::GET,
            url: "https://example.amazonaws.com/",
            headers: &[],
            body: "",
        };
        let keys = Keys::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None, None, "test");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160); // 2015-08-30 12:36
        let headers = signature_headers(&request, "us-east-1", keys, time).unwrap();
        let authorization = headers.iter().find(|(name, _)| name == "authorization").unwrap();
        assert_eq!(
            authorization.1,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, \
             Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
    }

    #[test]
    fn a_refusal_has_the_code_of_aws() {
        for (body, code) in [
            (r#"{"__type":"com.amazonaws.swf.service.v2.model#TaskTimedOut","message":"x"}"#, "TaskTimedOut"),
            (r#"{"__type":"InvalidToken"}"#, "InvalidToken"),
            (r#"{"code":"AccessDenied"}"#, "AccessDenied"),
            ("<html>", "HTTP status 400"),
            ("", "HTTP status 400"),
        ] {
            let answer = Answer { status: 400, body: body.into() };
            assert_eq!(answer.code(), code);
            let error = answer.success("to resume the execution", "states:SendTaskSuccess").unwrap_err();
            assert!(error.message.contains(code), "{error}");
        }
        let answer = Answer { status: 200, body: "{}".into() };
        assert_eq!(answer.success("it", "x:Y").unwrap(), "{}");
    }
}
