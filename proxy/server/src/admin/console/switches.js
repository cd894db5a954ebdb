// The switches of the console, and the session that unlocks them.
'use strict';

async function post(path, body, secret = session) {
  const answer = await fetch('/console/' + path, {
    method: 'POST', cache: 'no-store', signal: AbortSignal.timeout(8000),
    headers: { 'Content-Type': 'application/json', ...(secret ? { Authorization: 'Bearer ' + secret } : {}) },
    body: JSON.stringify(body),
  });
  const page = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(page && page.error ? page.error + (page.next ? '; ' + page.next : '') : 'Spillway answered ' + answer.status);
  poll();
  return page;
}

async function unlock(link) {
  const ticket = link.trim().split('ticket=').pop();
  const page = await post('session', {}, ticket);
  session = page.session;
  sessionStorage.setItem('spillway-session', session);
  poll();
}

function forget() {
  session = null;
  sessionStorage.removeItem('spillway-session');
}

// `asked` is the session that the last document was asked for with.
function locks(asked) {
  if (session && session === asked && !doc.session) forget();
  const open = Boolean(session && doc && doc.session);
  document.body.classList.toggle('locked', !open);
  say($('lock'), open ? `Switches open as ${doc.session.by}, ${span(doc.session.left)} left: lock` : 'Switches locked');
}

// A button that asks once more.
function sure(text, act) {
  const button = make('button', { type: 'button' }, text);
  let asked = null;
  const calm = () => { clearTimeout(asked); asked = null; say(button, text); };
  button.addEventListener('click', async () => {
    if (asked === null) { say(button, text + '? Press again'); asked = setTimeout(calm, 4000); return; }
    calm();
    try { await act(); } catch (problem) { alert('switch', 'bad', 'Not done', problem.message); setTimeout(() => alert('switch'), 10000); }
  });
  return button;
}

function dialog(id, act, says) {
  const element = $(id);
  const form = element.querySelector('form');
  const problem = element.querySelector('.problem');
  const sentence = element.querySelector('.says');
  const update = () => { if (says) say(sentence, says(form.elements, element)); };
  form.addEventListener('input', update);
  element.querySelector('.cancel').addEventListener('click', () => element.close());
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    say(problem, '');
    const button = form.querySelector('.primary');
    button.disabled = true;
    try { await act(form.elements); element.close(); form.reset(); } catch (failed) { say(problem, failed.message); }
    button.disabled = false;
  });
  return (fill) => {
    form.reset();
    say(problem, '');
    for (const [name, value] of Object.entries(fill || {})) form.elements[name].value = value;
    update();
    element.showModal();
  };
}

const lasting = (select) => (select.value ? 'for ' + select.selectedOptions[0].textContent : 'until it is taken back');
const text = (fields, name) => fields[name].value.trim();

const askUnlock = dialog('unlock', (fields) => unlock(fields.ticket.value));
const askMode = dialog('mode-dialog', (fields) => {
  if (!fields.mode.value) return post('mode', { class: fields.class.value || null });
  return post('mode', { class: fields.class.value || null, mode: fields.mode.value, lasts: fields.lasts.value ? Number(fields.lasts.value) : null, reason: text(fields, 'reason') });
}, (fields, element) => {
  const back = !fields.mode.value;
  element.classList.toggle('back', back);
  fields.reason.required = !back;
  const whom = fields.class.value || 'all classes';
  return back ? `Run-time changes of ${whom} are taken back; the configuration holds, on ${doc.host} only.`
    : `${fields.class.value || 'All classes'}: ${fields.mode.value} ${lasting(fields.lasts)}, on ${doc.host} only.`;
});
const TARGET = ['tenant', 'node', 'user_agent', 'verb', 'resource', 'namespace', 'shape', 'class'];
const target = (fields) => Object.fromEntries(TARGET.map((name) => [name, text(fields, name)]).filter(([, value]) => value));
const measure = dialog('measure-dialog', (fields) => post('quarantine', {
  target: target(fields), action: fields.action.value ? { slow: Number(fields.action.value) } : 'block',
  reason: text(fields, 'reason'), author: '-', seconds: Number(fields.lasts.value),
}), (fields) => {
  const whom = Object.entries(target(fields)).map(([name, value]) => `${name}=${value}`).join(' ');
  if (!whom) return '';
  return `${fields.action.value ? 'Slow to ' + percent(Number(fields.action.value)) : 'Block'} ${whom} ${lasting(fields.lasts)}, on ${doc.host} only.`;
});

function choices() {
  const classes = names.slice(0, -1);
  for (const [id, first] of [['mode-dialog', 'all classes'], ['measure-dialog', 'any']]) {
    const select = $(id).querySelector('select[name=class]');
    if (select.dataset.of === classes.join('\n')) continue;
    select.dataset.of = classes.join('\n');
    select.replaceChildren(make('option', { value: '' }, first), ...classes.map((name) => make('option', { value: name }, name)));
  }
}

$('lock').addEventListener('click', async () => {
  if (!session) { askUnlock(); return; }
  try { await post('lock', {}); } catch { /* it is over already */ }
  forget();
  poll();
});
$('change-mode').addEventListener('click', () => askMode());
$('add-measure').addEventListener('click', () => measure());
for (const button of $('windows').children) {
  button.addEventListener('click', () => {
    minutes = Number(button.dataset.minutes);
    for (const other of $('windows').children) other.setAttribute('aria-pressed', String(other === button));
    draw();
  });
}

function fragment() {
  if (!location.hash.startsWith('#ticket=')) return;
  const link = location.hash;
  history.replaceState(null, '', '/console'); // it stays in no history
  unlock(link).catch((problem) => { askUnlock(); say($('unlock').querySelector('.problem'), problem.message); });
}
addEventListener('hashchange', fragment);
