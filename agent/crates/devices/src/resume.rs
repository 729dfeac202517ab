//! Resumes an execution of Step Functions that waits for the verdict on a request.

use serde_json::{Value, json};

use agent_artifacts::aws::signed::{JsonVersion, call_json};
use agent_types::error::Result;

use crate::request::{DeviceRequest, Verdict};

/// Maximum characters of a reason. Step Functions refuses outputs of more than 256 KiB.
const LONGEST: usize = 2_000;

/// What AWS answers if nobody waits any more.
const OVER: [&str; 3] = ["TaskTimedOut", "TaskDoesNotExist", "InvalidToken"];

/// Whether somebody still waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    Yes,
    /// The execution has ended, or the token is not one.
    Over,
}

/// Hands the verdict to the execution of the request's task token. A device that fails is a result, and no error of the
/// execution. Safe to repeat.
///
/// # Errors
/// Upstream, if AWS does not answer or refuses it.
pub async fn resume(token: &str, request: &DeviceRequest, verdict: &Verdict) -> Result<Resumed> {
    let output = output(request, verdict).to_string();
    send("SendTaskSuccess", json!({ "taskToken": token, "output": output })).await
}

/// Says that nothing is tested: there is no request.
///
/// # Errors
/// As [`resume`].
pub async fn resume_without_request(token: &str, why: &str) -> Result<Resumed> {
    let output = json!({ "requested": false, "reason": shortened(why) }).to_string();
    send("SendTaskSuccess", json!({ "taskToken": token, "output": output })).await
}

/// Fails the execution: the request could not be made.
///
/// # Errors
/// As [`resume`].
pub async fn fail(token: &str, why: &str) -> Result<Resumed> {
    let body = json!({ "taskToken": token, "error": "NoDeviceRequest", "cause": shortened(why) });
    send("SendTaskFailure", body).await
}

/// The words of the verdict for the execution.
fn output(request: &DeviceRequest, verdict: &Verdict) -> Value {
    json!({
        "requested": true,
        "request": request.id,
        "pool": request.pool,
        "required": request.required,
        "attempt": verdict.attempt,
        "exit": verdict.exit,
        "outcome": verdict.outcome.word(),
        "reason": shortened(verdict.outcome.reason().unwrap_or_default()),
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

async fn send(operation: &str, body: Value) -> Result<Resumed> {
    let target = format!("AWSStepFunctions.{operation}");
    let answer = call_json("sfn", "states", JsonVersion::V1_0, &target, &body).await?;
    if !answer.is_success() && OVER.contains(&answer.code().as_str()) {
        return Ok(Resumed::Over);
    }
    answer.success(operation, &format!("states:{operation}"))?;
    Ok(Resumed::Yes)
}
