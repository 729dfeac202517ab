//! Text of a layer never runs as a script and never asks a server for anything.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use build_agent_tests::Browser;

use crate::job::failing;

/// A server that counts its visitors.
fn counting_server() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let visitors = Arc::new(AtomicUsize::new(0));
    let counted = visitors.clone();
    std::thread::spawn(move || {
        for _ in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, visitors)
}

/// What layers may try. Each sets `window.pwned` or asks the server for something.
const ATTACKS: [&str; 42] = [
    "<script>pwned=1</script>",
    "</script><script>pwned=1</script>",
    "</SCRIPT ><script>pwned=1//",
    "<!--<script>pwned=1//-->",
    "<img src=x onerror=pwned=1>",
    "<img src=//HOST/a.png>",
    "\"><img src=x onerror=pwned=1>",
    "'><img src=x onerror=pwned=1>",
    "\" onmouseover=\"pwned=1\" onfocus=\"pwned=1\" autofocus x=\"",
    "' onmouseover='pwned=1' autofocus onfocus='pwned=1",
    "` onmouseover=pwned=1 `",
    "<svg/onload=pwned=1>",
    "<svg><script>pwned=1</script></svg>",
    "<svg><animate onbegin=pwned=1 attributeName=x dur=1s>",
    "<svg><use href=http://HOST/x.svg#y /></svg>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=pwned=1>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "<iframe src=http://HOST/></iframe>",
    "<object data=http://HOST/></object><embed src=http://HOST/>",
    "<link rel=stylesheet href=http://HOST/x.css>",
    "<style>@import 'http://HOST/x.css';</style>",
    "</style><style>body{background:url(http://HOST/)}</style>",
    "<div style=background:url(http://HOST/)>x</div>",
    "<base href=http://HOST/>",
    "<meta http-equiv=refresh content='0;url=http://HOST/'>",
    "</title><script>pwned=1</script>",
    "</textarea><script>pwned=1</script>",
    "</noscript><script>pwned=1</script>",
    "<form action=http://HOST/ id=x><input name=a><button>x</button></form>",
    "<a href=javascript:pwned=1 id=y>x</a>",
    "javascript:pwned=1",
    "java\tscript:pwned=1",
    "data:text/html,<script>parent.pwned=1</script>",
    "<video src=http://HOST/ autoplay onloadstart=pwned=1></video>",
    "<audio src=x onerror=pwned=1>",
    "<details open ontoggle=pwned=1>",
    "<body onload=pwned=1>",
    "<input onfocus=pwned=1 autofocus>",
    "&lt;img src=x onerror=pwned=1&gt;",
    "\\u003cscript\\u003epwned=1\\u003c/script\\u003e",
    "]]><script>pwned=1</script>",
    "<template><script>pwned=1</script></template><img name=getElementById><a id=dataOf>",
];

/// What a person may do on a page.
const EVERYTHING: &str = "(async () => {
    const wait = () => new Promise(done => setTimeout(done, 50));
    document.querySelectorAll('details').forEach(found => { found.open = true; });
    for (const form of document.forms) {
        for (const field of form.elements) {
            if (field.localName === 'input') field.value = 'o';
            if (field.localName === 'select') for (const one of field.options) {
                field.value = one.value;
                field.dispatchEvent(new Event('input', { bubbles: true }));
            }
            field.dispatchEvent(new Event('input', { bubbles: true }));
            if (field.localName === 'button') field.click();
        }
    }
    document.querySelectorAll('button').forEach(found => found.click());
    for (const chart of document.querySelectorAll('.chart')) {
        for (const key of ['ArrowRight', 'ArrowDown', 'End', '+', '-', '0']) chart.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
        const box = chart.getBoundingClientRect();
        for (let x = 2; x < box.width; x += 20) for (let y = 40; y < box.height; y += 10) {
            chart.dispatchEvent(new PointerEvent('pointermove', { clientX: box.left + x, clientY: box.top + y, bubbles: true }));
        }
    }
    for (const found of document.querySelectorAll('*')) {
        for (const name of ['mouseover', 'focus', 'toggle', 'load', 'error']) found.dispatchEvent(new Event(name));
    }
    document.querySelectorAll('a').forEach(found => { if (found.protocol === 'file:' && found.hash) found.click(); });
    await wait();
    return true;
})()";

/// No text of a layer runs as a script or asks a server for anything: neither with the page's policy nor without it.
#[test]
fn hostile_text_runs_no_script_and_makes_no_request() {
    let Some(mut browser) = Browser::start("hostile_text_runs_no_script_and_makes_no_request") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let (port, visitors) = counting_server();
    let attacks: Vec<String> =
        ATTACKS.iter().map(|attack| attack.replace("HOST", &format!("127.0.0.1:{port}"))).collect();
    let elements = "document.querySelectorAll(':not(meta)').length";
    let mut harmless = None;
    // Several in each text, so that one may help another; and each of them alone.
    let mut texts = vec![String::new()];
    for attack in &attacks {
        match texts.last_mut() {
            Some(text) if !text.is_empty() && text.len() + attack.len() < 200 => *text += attack,
            _ => texts.push(attack.clone()),
        }
    }
    let with_policy = texts.len();
    texts.extend(attacks);
    for (number, text) in texts.iter().enumerate() {
        let page = failing(text).page(directory.path());
        let html = std::fs::read_to_string(&page).unwrap();
        let (before, policy) = html.split_once("<meta http-equiv=\"Content-Security-Policy\"").unwrap();
        let (policy, after) = policy.split_once('>').unwrap();
        assert!(policy.contains("default-src 'none'"), "{policy}");
        let without_policy = directory.path().join("without-policy.html");
        std::fs::write(&without_policy, format!("{before}{after}")).unwrap();
        let pages = if number < with_policy { vec![&page, &without_policy] } else { vec![&without_policy] };
        for page in pages {
            browser.open(page);
            let count = browser.evaluate(elements);
            assert_eq!(&count, harmless.get_or_insert(count.clone()), "elements with {text}");
            assert_eq!(browser.evaluate(EVERYTHING), true, "{text}");
            assert_eq!(browser.evaluate("typeof pwned"), "undefined", "{text}");
            let address = format!("file://{}", page.display());
            assert_eq!(browser.requests(), [address], "{text}");
            assert!(browser.complaints().is_empty(), "{text}: {:#?}", browser.complaints());
            let schemes = "[...new Set([...document.links].map(found => found.protocol))].sort().join()";
            assert!(
                ["file:,https:", "file:"].iter().any(|known| browser.evaluate(schemes) == *known),
                "{text}"
            );
        }
    }
    assert_eq!(visitors.load(Ordering::SeqCst), 0);
}
