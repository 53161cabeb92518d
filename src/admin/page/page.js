// The status page: draws what /api/events tells, and one incident when it is asked for.
//
// Every word that comes from outside goes in as text, never as markup. Nothing is sent but GETs to our own address.
'use strict';

// phase -> [mood, sign, what it means to somebody who has just been woken]
const PHASES = {
  quiet: ['good', '✓', 'The server saves and takes writes. Nothing to do.'],
  alarmed: ['busy', '!', 'The server refuses writes because it cannot save. Finding out what that means.'],
  mitigated: ['busy', '◐', 'Writes are open and not saved. The switch is owed back to you.'],
  diagnosing: ['busy', '?', 'Writes are open and not saved. The cause is being looked for.'],
  repairing: ['busy', '⚒', 'Writes are open and not saved. A cure is being applied.'],
  verifying: ['busy', '…', 'Writes are open and not saved. A save is running that must prove the cure.'],
  rearming: ['busy', '↺', 'A save was proved. Your setting is being put back.'],
  holding: ['busy', '‖', 'Writes wait here: to open them is wrong or not allowed.'],
  exposed: ['bad', '✕', 'The budget of unsaved data is spent: writes are refused again.'],
  stuck: ['bad', '✕', 'Nothing is left to try. A person must act: see the command below.'],
};
const SEVERITY = { crit: 'bad', warn: 'busy', info: 'good' };
const SAMPLES = 900;
const $ = (id) => document.getElementById(id);

let status = null;
let samples = [];
let incidents = [];
let shown = '';

// ---- small makers ----

function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === 'class') node.className = value; else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function count(n) {
  if (n >= 1e6) return (n / 1e6).toFixed(n >= 1e7 ? 0 : 1) + 'M';
  if (n >= 1e4) return (n / 1e3).toFixed(0) + 'k';
  return String(Math.round(n));
}
function bytes(n) {
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  let at = 0;
  while (n >= 1024 && at < 3) { n /= 1024; at++; }
  return (at ? n.toFixed(1) : n) + ' ' + units[at];
}
// Two digits that count, and no zero that does not.
const short = (n) => String(Number(n.toPrecision(n >= 100 ? 3 : 2)));
function micros(us) {
  if (us >= 3.6e9) return short(us / 3.6e9) + ' h';
  if (us >= 6e7) return short(us / 6e7) + ' min';
  if (us >= 1e6) return short(us / 1e6) + ' s';
  if (us >= 1e3) return short(us / 1e3) + ' ms';
  return Math.round(us) + ' µs';
}
const millis = (ms) => (ms === null || ms === undefined ? '–' : micros(ms * 1000));
function seconds(s) {
  if (s < 60) return s + ' s';
  if (s < 3600) return Math.floor(s / 60) + ' min ' + (s % 60) + ' s';
  return Math.floor(s / 3600) + ' h ' + Math.floor((s % 3600) / 60) + ' min';
}
const clock = (at) => new Date(at).toLocaleString([], { dateStyle: 'short', timeStyle: 'medium' });

// ---- servers ----

function meter(name, value, max, say) {
  const text = max ? say(value) + ' of ' + say(max) : say(value) + ' (no limit)';
  const box = el('div', {}, el('dt', {}, name), el('dd', {}, text));
  if (max) {
    const share = Math.min(1, value / max);
    const fill = el('i', { class: share >= 0.9 ? 'most' : share >= 0.5 ? 'half' : '' });
    fill.style.width = 100 * share + '%';
    const bar = { class: 'bar', role: 'meter', 'aria-label': name, 'aria-valuenow': value, 'aria-valuemin': 0, 'aria-valuemax': max, 'aria-valuetext': text };
    box.append(el('div', bar, fill));
  }
  return box;
}

function fact(name, ...value) {
  return el('div', {}, el('dt', {}, name), el('dd', {}, ...value));
}

function finding(f) {
  const box = el('div', { class: 'finding ' + (SEVERITY[f.severity] || '') });
  box.append(el('p', {}, el('span', { class: 'badge' }, f.severity), ' ', el('strong', {}, f.id), ': ' + f.evidence));
  if (f.remedy) {
    const copy = el('button', { type: 'button', 'aria-label': 'Copy the command for ' + f.id }, 'copy');
    copy.addEventListener('click', () => {
      navigator.clipboard?.writeText(f.remedy).then(() => { copy.textContent = 'copied'; });
    });
    box.append(el('p', { class: 'faint' }, f.applied ? 'bgsafe did this:' : 'Type this:'));
    box.append(el('div', { class: 'type' }, el('code', {}, f.remedy), copy));
  }
  return box;
}

function upstream(u) {
  const [mood, sign, means] = PHASES[u.phase] || ['busy', '?', ''];
  const card = el('article', { class: 'card ' + (u.up || u.phase !== 'quiet' ? mood : 'bad'), 'aria-label': u.address });
  const what = [u.role, (u.server + ' ' + u.version).trim(), u.up ? 'answers' : 'does not answer'];
  card.append(el('p', { class: 'mono' }, el('strong', {}, u.address), '  ' + what.join(' · ')));
  card.append(el('p', { class: 'phase' }, el('span', { 'aria-hidden': 'true' }, sign), u.phase));
  card.append(el('p', { class: 'means' }, u.up ? means : 'The server does not answer bgsafe. ' + (u.phase === 'quiet' ? '' : means)));
  const facts = el('dl', { class: 'facts' });
  facts.append(meter('unsaved for', u.exposure.secs, u.exposure.secs_max, seconds));
  facts.append(meter('unsaved changes', u.exposure.changes, u.exposure.changes_max, count));
  facts.append(fact('waiting here', count(u.held.commands) + ' commands, ' + bytes(u.held.bytes)));
  facts.append(fact('writes are', { forward: 'passed on', hold: 'held', redirect: 'sent to another server', refuse: 'refused by the server' }[u.posture] || u.posture, el('span', { class: 'faint' }, ' (policy ' + u.policy + ')')));
  facts.append(fact('owed to you', u.debt ? 'stop-writes-on-bgsave-error ' + u.debt.owed + ', since ' + clock(u.debt.since) : 'nothing'));
  if (u.incident) {
    facts.append(fact('incident', el('a', { href: '#incident=' + encodeURIComponent(u.incident) }, u.incident)));
  }
  if (u.rights && u.rights.denied.length) facts.append(fact('bgsafe may not', u.rights.denied.join(', ')));
  card.append(facts, ...u.findings.map(finding));
  return card;
}

// ---- plots ----

const WIDTH = 480, HEIGHT = 170, LEFT = 48, RIGHT = 8, TOP = 8, BOTTOM = 22;

function nice(max) {
  const base = 10 ** Math.floor(Math.log10(Math.max(max, 1)));
  return [1, 2, 5, 10].map((step) => step * base).find((top) => top >= max) || max;
}

// The shortest of these that shows all there is: a young bgsafe fills its plots too.
function range() {
  const age = samples.length ? samples[samples.length - 1].at - samples[0].at : 0;
  return [60, 300, SAMPLES].find((secs) => age <= secs) || SAMPLES;
}

// series: [name, sample -> number or null]; a logarithmic axis shows the tail and the middle together.
function plot(title, series, say, log) {
  const now = samples.length ? samples[samples.length - 1].at : 0;
  const secs = range();
  const x = (at) => LEFT + (WIDTH - LEFT - RIGHT) * (1 - (now - at) / secs);
  const values = samples.flatMap((s) => series.map(([, read]) => read(s))).filter((v) => v !== null);
  const top = nice(Math.max(1, ...values));
  const low = log ? Math.max(1, 10 ** Math.floor(Math.log10(Math.max(1, Math.min(top, ...values))))) : 0;
  const part = log ? (v) => Math.log(Math.max(v, low) / low) / Math.log(Math.max(top, 10 * low) / low) : (v) => v / top;
  const y = (v) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - part(v));
  const picture = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img' });
  for (const i of incidents) {
    const from = Date.parse(i.opened_at) / 1000;
    const to = i.closed_after_ms === null ? now : from + i.closed_after_ms / 1000;
    if (to < now - secs || !now) continue;
    const left = Math.max(LEFT, x(from));
    picture.append(svg('rect', { class: 'span', x: left, y: TOP, width: Math.max(2, x(to) - left), height: HEIGHT - TOP - BOTTOM }));
  }
  const ticks = log ? [] : [0, top / 2, top];
  if (log) for (let v = low; v <= Math.max(top, 10 * low) * 1.001; v *= 10) ticks.push(v);
  for (const v of ticks) {
    picture.append(svg('line', { class: 'axis', x1: LEFT, x2: WIDTH - RIGHT, y1: y(v), y2: y(v) }));
    picture.append(svg('text', { x: LEFT - 5, y: y(v) + 4, 'text-anchor': 'end' }, say(v)));
  }
  for (const third of [3, 2, 1, 0]) {
    const ago = (secs * third) / 3;
    const anchor = { 3: 'start', 0: 'end' }[third] || 'middle';
    picture.append(svg('text', { x: x(now - ago), y: HEIGHT - 6, 'text-anchor': anchor }, ago ? '−' + micros(ago * 1e6) : 'now'));
  }
  const key = [];
  series.forEach(([name, read], nth) => {
    let points = [];
    const flush = () => { if (points.length) picture.append(svg('polyline', { class: 's' + nth, points: points.join(' ') })); points = []; };
    for (const s of samples) {
      const v = read(s);
      if (v === null) { flush(); continue; }
      points.push(x(s.at).toFixed(1) + ',' + y(v).toFixed(1));
      if (points.length === 1) points.push((x(s.at) + 0.5).toFixed(1) + ',' + y(v).toFixed(1));
    }
    flush();
    const last = samples.length ? read(samples[samples.length - 1]) : null;
    const dash = svg('svg', { viewBox: '0 0 26 8', width: 26, height: 8, 'aria-hidden': 'true' }, svg('polyline', { class: 's' + nth, points: '0,4 26,4' }));
    dash.style.cssText = 'display:inline-block;width:26px;vertical-align:middle';
    const item = el('span', {}, dash, ' ' + name + ' ' + (last === null ? '–' : say(last)));
    key.push(item);
  });
  const words = key.map((item) => item.textContent.trim()).join(', ');
  picture.setAttribute('aria-label', title + ', now: ' + words);
  return el('figure', {}, el('figcaption', {}, el('strong', {}, title), el('span', { class: 'key' }, ...key.flatMap((k) => [k, ' ']))), picture);
}

function plots() {
  const nth = (name, at) => (s) => (s[name] ? s[name][at] : null);
  const tail = (name) => [['p50', nth(name, 0)], ['p99', nth(name, 1)], ['p99.9', nth(name, 2)]];
  $('plot-grid').replaceChildren(
    plot('Requests a second', [['requests', (s) => s.requests]], count, false),
    plot('Time to answer', tail('latency_us'), micros, true),
    plot('Of it, inside bgsafe', tail('overhead_us'), micros, true),
    plot('Refused, and waiting', [['refusals a second', (s) => s.refusals], ['waiting', (s) => s.held]], count, false),
    plot('Clients', [['connected', (s) => s.sessions]], count, false),
    plot('Bytes a second', [['to the server', (s) => s.bytes[0]], ['to clients', (s) => s.bytes[1]]], bytes, false),
  );
}

// ---- incidents ----

function past() {
  $('no-past').hidden = incidents.length > 0;
  $('past-table').hidden = incidents.length === 0;
  $('past-table').tBodies[0].replaceChildren(...incidents.map((i) => {
    const link = el('a', { href: '#incident=' + encodeURIComponent(i.id) }, clock(i.opened_at));
    const cells = [i.outcome || 'still open', millis(i.mitigated_after_ms), millis(i.closed_after_ms), count(i.refusals), count(i.held), count(i.timed_out)];
    return el('tr', {}, el('td', {}, link), el('td', { class: 'mono' }, i.upstream), ...cells.map((c, n) => el('td', n ? { class: 'num' } : {}, c)));
  }));
}

// A row for each label, the topmost in which it touches no other.
function rows() {
  const ends = [];
  return (from, to) => {
    let row = ends.findIndex((end) => end < from);
    if (row < 0) row = ends.length;
    ends[row] = to;
    return row;
  };
}

// Phases over a time axis that shows a millisecond and an hour: the logarithm of one plus the time.
function timeline(i) {
  const wide = 900, last = i.timeline.length ? i.timeline[i.timeline.length - 1].at_ms : 0;
  const end = Math.max(10, i.closed_after_ms ?? last, last);
  const x = (ms) => 8 + ((wide - 16) * Math.log10(1 + ms)) / Math.log10(1 + end);
  const spans = [];
  for (const entry of i.timeline) {
    const before = spans[spans.length - 1];
    if (before && before.phase === entry.phase) continue;
    if (before) before.to = entry.at_ms;
    spans.push({ phase: entry.phase, from: entry.at_ms, to: end });
  }
  // A label stands behind its line, or before it where it would run off the edge.
  const label = (at, text, free) => {
    const width = 7.2 * text.length + 8;
    const flip = at + width > wide;
    const row = flip ? free(at - width, at) : free(at, at + width);
    return { row, x: flip ? at - 4 : at + 4, anchor: flip ? 'end' : 'start' };
  };
  const above = rows(), below = rows();
  const names = spans.map((span) => label(x(span.from), (PHASES[span.phase]?.[1] ?? '?') + ' ' + span.phase, above));
  const marks = [['writes open', i.mitigated_after_ms], ['save proved', i.verified_after_ms], ['closed', i.closed_after_ms]]
    .filter(([, ms]) => ms !== null && ms !== undefined).map(([name, ms]) => [name + ' after ' + millis(ms), x(ms)]);
  const places = marks.map(([name, at]) => label(at, name, below));
  const top = 14 * (1 + Math.max(0, ...names.map((n) => n.row))) + 6;
  const high = top + 80 + 14 * (1 + Math.max(0, ...places.map((p) => p.row)));
  const picture = svg('svg', { viewBox: `0 0 ${wide} ${high}`, role: 'img', class: 'wide' });
  spans.forEach((span, nth) => {
    const [mood, sign] = PHASES[span.phase] || ['busy', '?'];
    const left = x(span.from), { row, x: at, anchor } = names[nth];
    picture.append(svg('rect', { class: 'p-' + mood, x: left, y: top, width: Math.max(2, x(span.to) - left), height: 48 }));
    picture.append(svg('line', { class: 'axis', x1: left, x2: left, y1: 14 * row + 4, y2: top }));
    picture.append(svg('text', { class: 'word', x: at, y: 14 * row + 13, 'text-anchor': anchor }, sign + ' ' + span.phase));
  });
  for (const entry of i.timeline) picture.append(svg('circle', { class: 'p-busy', cx: x(entry.at_ms), cy: top + 24, r: 2.5 }));
  for (const ms of [1, 10, 100, 1e3, 1e4, 6e4, 6e5, 3.6e6, 3.6e7]) {
    if (ms > end) break;
    picture.append(svg('line', { class: 'axis', x1: x(ms), x2: x(ms), y1: top + 48, y2: top + 54 }));
    picture.append(svg('text', { x: x(ms), y: top + 66, 'text-anchor': 'middle' }, millis(ms)));
  }
  marks.forEach(([name, at], nth) => {
    const { row, x: from, anchor } = places[nth];
    picture.append(svg('line', { class: 's0', x1: at, x2: at, y1: top, y2: top + 76 + 14 * row }));
    picture.append(svg('text', { class: 'word', x: from, y: top + 80 + 14 * row, 'text-anchor': anchor }, name));
  });
  picture.setAttribute('aria-label', 'Phases: ' + spans.map((s) => s.phase + ' from ' + millis(s.from)).join(', '));
  const caption = el('figcaption', {}, el('strong', {}, 'What happened'), el('span', { class: 'key' }, 'the axis is logarithmic'));
  return el('figure', {}, caption, el('div', { class: 'scroll' }, picture));
}

function postMortem(i) {
  const box = $('incident');
  const close = el('a', { href: '#' }, 'close');
  const print = el('button', { type: 'button' }, 'print');
  print.addEventListener('click', () => window.print());
  const file = 'api/incidents/' + encodeURIComponent(i.id);
  const tools = el('p', { class: 'tools' }, print, el('a', { href: file + '.md', download: i.id + '.md' }, 'Markdown'), el('a', { href: file, download: i.id + '.json' }, 'JSON'), close);
  const facts = el('dl', { class: 'facts' });
  facts.append(
    fact('server', i.upstream), fact('opened', clock(i.opened_at)), fact('kind', i.variant === 'aof' ? 'append-only file' : 'snapshot'),
    fact('ended as', i.outcome || 'still open'), fact('writes open after', millis(i.mitigated_after_ms)),
    fact('a save proved after', millis(i.verified_after_ms)), fact('closed after', millis(i.closed_after_ms)),
    fact('refusals seen', count(i.refusals)), fact('commands held', count(i.held)),
    fact('of these', `${count(i.replayed)} sent again, ${count(i.timed_out)} given the server's error, ${count(i.abandoned)} left`),
    fact('unsaved at the most', count(i.changes_exposed) + ' changes'),
  );
  const rows = i.timeline.map((e) => el('tr', {}, el('td', { class: 'num' }, millis(e.at_ms)), el('td', {}, e.phase), el('td', {}, e.event), el('td', {}, e.detail)));
  const head = el('thead', {}, el('tr', {}, ...['after', 'phase', 'event', 'detail'].map((t) => el('th', { scope: 'col' }, t))));
  box.replaceChildren(
    el('h2', { tabindex: '-1', id: 'incident-title' }, 'Incident ' + i.id), tools, facts, timeline(i),
    ...i.findings.map(finding), el('h3', {}, 'Timeline'), el('div', { class: 'scroll' }, el('table', {}, head, el('tbody', {}, ...rows))),
  );
  box.hidden = false;
}

async function ask(path) {
  const answer = await fetch(path, { cache: 'no-store' });
  if (!answer.ok) throw new Error(path + ': ' + answer.status);
  return answer.json();
}

async function chosen(focus) {
  const id = new URLSearchParams(location.hash.slice(1)).get('incident');
  if (!id) { $('incident').hidden = true; shown = ''; return; }
  try {
    postMortem(await ask('api/incidents/' + encodeURIComponent(id)));
    if (focus && shown !== id) $('incident-title').focus();
    shown = id;
  } catch {
    $('incident').replaceChildren(el('p', {}, 'There is no incident ' + id + ' any more.'));
    $('incident').hidden = false;
  }
}

async function reload() {
  incidents = await ask('api/incidents');
  past();
  plots();
  await chosen(false);
}

// ---- life ----

const RANK = { bad: 0, busy: 1, good: 2 };

function draw() {
  $('version').textContent = status.version;
  $('head').textContent = `up ${seconds(status.uptime_secs)} · ${count(status.sessions)} clients · ${status.workers} worker${status.workers === 1 ? '' : 's'}`;
  // What is drawn anew must not take the keyboard's place away.
  const reachable = () => [...$('upstreams').querySelectorAll('a, button')];
  const place = reachable().indexOf(document.activeElement);
  $('upstreams').replaceChildren(...status.upstreams.map(upstream));
  if (place >= 0) reachable()[place]?.focus();
  const worst = status.upstreams.map((u) => u.phase).sort((a, b) => RANK[PHASES[a]?.[0]] - RANK[PHASES[b]?.[0]])[0];
  document.title = (worst && worst !== 'quiet' ? worst + ' – ' : '') + 'bgsafe';
}

function linked(up) {
  $('link').textContent = up ? '● live' : '○ no answer from bgsafe; trying again. What stands here is old.';
  $('link').className = up ? '' : 'bad';
}

function listen() {
  const feed = new EventSource('api/events');
  feed.addEventListener('open', () => {
    linked(true);
    ask('api/history').then((all) => { samples = all; plots(); }).catch(() => {});
    reload().catch(() => {});
  });
  feed.addEventListener('error', () => {
    linked(false);
    // The browser tries again by itself, but not after an answer that was no stream.
    if (feed.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  });
  feed.addEventListener('status', (event) => {
    const beat = JSON.parse(event.data);
    const had = status && status.upstreams.some((u) => u.incident);
    status = beat.status;
    if (beat.sample && (!samples.length || samples[samples.length - 1].at < beat.sample.at)) {
      samples.push(beat.sample);
      samples = samples.slice(-SAMPLES);
    }
    draw();
    if (had || status.upstreams.some((u) => u.incident)) reload().catch(() => {}); else plots();
  });
  feed.addEventListener('phase', () => reload().catch(() => {}));
}

window.addEventListener('hashchange', () => chosen(true));
listen();
