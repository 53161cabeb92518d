//! The status page in a real browser, in front of a real incident: what a person sees, not what the JSON says.
//!
//! Needs Chromium and its driver on PATH; without them it says `SKIPPED` and why. Screenshots go to
//! `BGSAFE_SHOTS`, when that names a directory.

#[path = "../common/mod.rs"]
mod common;
mod driver;

use std::time::Duration;

use bgsafe::testing::faults::Fault;
use common::{Lab, eventually, program};
use driver::Browser;

const SOON: Duration = Duration::from_secs(20);

fn shows(browser: &Browser, what: &str, script: &str) {
    eventually(what, SOON, || browser.script(&format!("return Boolean({script})")) == true);
}

#[test]
fn an_incident_is_seen_as_it_happens_and_can_be_read_afterwards() {
    let Some(browser) = Browser::start(1200, 1600) else { return };
    let fault = Fault::DumpDir;
    let mut lab = Lab::new(fault.options(&program()), &[]);
    browser.go(&format!("http://{}/", lab.bgsafe.admin()));
    let phase = "document.querySelector('.phase')?.textContent";
    shows(&browser, "peace", &format!("{phase}?.endsWith('quiet')"));
    shows(&browser, "the live link", "document.getElementById('link').textContent.includes('live')");
    lab.write();
    shows(&browser, "throughput", "[...document.querySelectorAll('figure svg polyline.s0')].length >= 3");

    let broken = fault.strike(lab.server.site()).unwrap();
    shows(&browser, "an open incident, without a reload", &format!("{phase} && !{phase}.endsWith('quiet')"));
    shows(&browser, "what is owed", "document.body.textContent.includes('stop-writes-on-bgsave-error yes')");
    shows(
        &browser,
        "the command to type",
        "document.querySelector('.finding .type code')?.textContent.includes('mv ')",
    );
    shows(&browser, "the title", "!document.title.startsWith('bgsafe')");
    browser.shot("open");

    broken.heal().unwrap();
    lab.wait_until_quiet("yes");
    shows(&browser, "peace again", &format!("{phase}.endsWith('quiet')"));
    shows(&browser, "the past incident", "document.querySelectorAll('#past-table tbody tr').length === 1");
    browser.script("document.querySelector('#past-table a').click()");
    shows(&browser, "its post-mortem", "document.querySelectorAll('#incident svg rect').length >= 3");
    shows(&browser, "its end", "document.getElementById('incident').textContent.includes('rearmed')");
    let focused = browser.script("return document.activeElement.id");
    assert_eq!(focused, "incident-title", "the keyboard is where the news is");
    let links =
        browser.script("return [...document.querySelectorAll('#incident a[download]')].map((a) => a.href)");
    for link in links.as_array().unwrap() {
        let path =
            link.as_str().unwrap().split_once("/api/").map(|(_, rest)| format!("/api/{rest}")).unwrap();
        assert!(browser.status_of(&path) == 200, "{path}");
    }
    browser.shot("closed");
    assert_eq!(browser.complaints(), Vec::<String>::new(), "nothing is blocked, missing or thrown");
    let score = lab.judge();
    lab.assert_perfect(&score);
}

#[test]
fn a_phone_in_the_dark_shows_it_all_without_scrolling_sideways() {
    let Some(browser) = Browser::start_dark(360, 740) else { return };
    let lab = Lab::new(Fault::DumpDir.options(&program()), &[]);
    browser.go(&format!("http://{}/", lab.bgsafe.admin()));
    shows(&browser, "peace", "document.querySelector('.phase')?.textContent.endsWith('quiet')");
    shows(&browser, "the plots", "document.querySelectorAll('#plot-grid figure').length === 6");
    shows(&browser, "no overflow", "document.documentElement.scrollWidth <= window.innerWidth");
    // WCAG's contrast of text: the page's own colours, as the browser resolved them.
    let contrast = browser.script(CONTRAST);
    for pair in contrast.as_array().unwrap() {
        assert!(pair[1].as_f64().unwrap() >= 4.5, "{pair}");
    }
    let named = "[...document.querySelectorAll('svg[role=img], [role=meter], button')].every((e) => e.getAttribute('aria-label') || e.textContent)";
    shows(&browser, "a name for each picture", named);
    browser.shot("phone");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

const CONTRAST: &str = "
  const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!c.endsWith(', 0)')) return c; } return 'rgb(255, 255, 255)'; };
  return [...document.querySelectorAll('p, dt, dd, h1, h2, a, code, td, strong')].map((e) => {
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    return [e.tagName + ' ' + e.textContent.slice(0, 30), (a + 0.05) / (b + 0.05)];
  });";
