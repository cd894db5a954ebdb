// What the console says in words and tables, and the loop that asks for it.
'use strict';

// Tables: rows are kept and only their text changes, so that focus and selection stay

function table(id, rows) {
  const body = $(id).tBodies[0];
  const labels = [...$(id).tHead.rows[0].cells].map((cell) => cell.textContent);
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const focused = document.activeElement;
  rows.forEach(({ key, cells, css, button }, at) => {
    let row = known.get(key);
    known.delete(key);
    if (!row) {
      row = make('tr', { role: 'row', 'data-key': key });
      cells.forEach((_, n) => row.append(make('td', { role: 'cell', 'data-label': labels[n] }, make('span'))));
      if (button) row.append(make('td', { role: 'cell', class: 'switch wide', 'data-label': '' }, button()));
    }
    row.className = css || '';
    cells.forEach(([text, kind], n) => {
      const cell = row.cells[n];
      say(cell.firstChild, text);
      if (cell.className !== (kind || '')) cell.className = kind || '';
    });
    if (body.rows[at] !== row) body.insertBefore(row, body.rows[at] || null);
  });
  for (const row of known.values()) row.remove();
  if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

function facts(list, entries) {
  while (list.children.length > entries.length * 2) list.lastChild.remove();
  entries.forEach(([name, value, css], at) => {
    if (!list.children[at * 2]) list.append(make('dt'), make('dd'));
    say(list.children[at * 2], name);
    say(list.children[at * 2 + 1], value);
    list.children[at * 2 + 1].className = css || '';
  });
}

function tiles(entries) {
  const list = $('tiles');
  entries.forEach(([name, value, sub, css], at) => {
    if (!list.children[at]) list.append(make('div', {}, make('dt'), make('dd'), make('dd', { class: 'sub' })));
    const tile = list.children[at];
    say(tile.children[0], name);
    say(tile.children[1], value);
    say(tile.children[2], sub);
    tile.className = css || '';
  });
}

const worst = (mode) => (mode === 'enforce' ? '' : 'warn');

function show() {
  const { status, reserved, mode } = doc;
  const { culprit } = status;
  const check = status.reserved_check;
  const dying = check && !check.success;
  const point = points[points.length - 1];
  say($('host'), doc.host);
  const changes = status.mode_changes.length;
  const state = [
    ['mode ' + status.mode + (changes ? ` (${changes} run-time ${changes === 1 ? 'change' : 'changes'})` : ''), worst(status.mode)],
    [status.upstream ? 'apiserver answers' : 'apiserver does not answer', status.upstream ? '' : 'bad'],
    ['tuner: ' + status.tuner.replaceAll('_', ' ') + ` (${status.reason})`, status.tuner === 'fail_open' ? 'bad' : status.tuner === 'brake' ? 'warn' : ''],
  ];
  const list = $('state');
  state.forEach(([text, css], at) => {
    if (!list.children[at]) list.append(make('li'));
    say(list.children[at], text);
    list.children[at].className = css;
  });

  const refused = mean((one) => total(one, REFUSED));
  const shadow = mean((one) => total(one, SHADOW));
  let slowest = [0, ''];
  for (const one of lastPoints(5)) for (const numbers of one.of) if (numbers && numbers[LONGEST] > slowest[0]) slowest = [numbers[LONGEST], names[numbers[0]]];
  const used = status.short.ceiling_ms ? status.short.outstanding_ms / status.short.ceiling_ms : 0;
  const wide = status.long.ceiling_ms ? status.long.outstanding_ms / status.long.ceiling_ms : 0;
  const main = status.lanes.find((lane) => lane.lane === 'main') || {};
  tiles([
    ['Offered', rate(mean(offered)) + ' /s', `${main.in_flight || 0} in flight`],
    ['Admitted', rate(mean((one) => total(one, ADMITTED, SPARED))) + ' /s', `${status.classes.reduce((sum, one) => sum + one.short.waiting + one.long.waiting, 0)} wait`],
    ['Refused', rate(refused) + ' /s', shadow > 0 ? `${rate(shadow)} /s would be` : refused > 0 ? percent(refused / Math.max(mean(offered), refused)) + ' of all' : 'nobody', refused > 0 ? 'bad' : ''],
    ['Longest wait', ms(slowest[0]), slowest[1] || 'nobody waits'],
    ['Level', status.level || 'all', status.level ? 'refused beyond, in ' + (status.classes[parseInt(status.level, 10)] || {}).class : 'no level is refused', status.level ? 'bad' : ''],
    ['Limit in use', percent(used), `long work ${percent(wide)}`],
    ['Apiserver', status.upstream ? ms(status.probe_delay_ms) + ' late' : 'no answer', `${ms(status.probe_baseline_ms)} when idle`, !status.upstream ? 'bad' : status.probe_delay_ms > doc.probe_target ? 'warn' : ''],
    ['Reserved lane', !reserved.on ? 'off' : dying ? 'FAILS' : check ? 'works' : 'open', `${reserved.in_flight} of ${reserved.max_in_flight} in use`, dying ? 'bad' : ''],
  ]);

  const now = doc.now;
  table('tenants', status.tenants.map((one) => ({
    key: one.tenant + '\n' + one.class + '\n' + one.kind,
    cells: [
      [one.tenant, 'code'], [one.class, 'name'], [one.shape || 'various', 'wide'],
      [rate(one.requests_per_second), 'n'], [one.demand_cores.toFixed(2), 'n'], [percent(one.share_ratio), 'n' + (one.share_ratio > 0.5 && status.level ? ' warn' : '')],
      [percent(one.refused_ratio), 'n' + (one.refused_ratio >= 0.01 ? ' bad' : ' dim')], [String(one.instances), 'n'],
    ],
    button: () => make('button', { type: 'button', on: { click: () => measure({ tenant: one.tenant }) } }, 'Block or slow…'),
  })));
  say($('tenant-count'), doc.tenants > status.tenants.length ? `${status.tenants.length} of ${doc.tenants} or more` : status.tenants.length ? '' : 'nobody of late');

  const held = (bound) => (bound.ceiling_ms || bound.outstanding_ms ? (bound.ceiling_ms < 1000 ? ms(bound.outstanding_ms).replace(/ ms$/, '') : ms(bound.outstanding_ms)) + ' of ' + ms(bound.ceiling_ms) : '–');
  const some = lastPoints(3);
  const average = (at, ...what) => (some.length ? some.reduce((sum, one) => sum + what.reduce((all, which) => all + of(one, at, which), 0), 0) / some.length : 0);
  const rows = names.map((name, at) => {
    const one = at < names.length - 1 ? status.classes[at] : null;
    const gone = average(at, REFUSED);
    const would = average(at, SHADOW);
    const lane = at === names.length - 1;
    const idle = !average(at, ADMITTED, SPARED, REFUSED) && !(one ? one.short.running + one.long.running + one.short.waiting + one.long.waiting : reserved.in_flight);
    return {
      key: name,
      css: idle ? 'idle' : '',
      cells: [
        [name + (lane ? ' lane' : ''), 'key ' + colour(at)],
        [lane ? '–' : one.mode + (one.mode === 'enforce' && one.enforced_percent < 100 ? ` ${Math.round(one.enforced_percent)} %` : ''), one ? worst(one.mode) : ''],
        [rate(average(at, ADMITTED, SPARED, REFUSED)), 'n'], [rate(average(at, ADMITTED, SPARED)), 'n'],
        [rate(gone) + (would > 0 ? ` (${rate(would)})` : ''), 'n' + (gone > 0 ? ' bad' : ' dim')],
        [ms(point ? of(point, at, WAIT) : 0), 'n'], [ms(Math.max(0, ...lastPoints(5).map((each) => of(each, at, LONGEST)))), 'n'],
        [one ? String(one.short.running + one.long.running) : String(reserved.in_flight), 'n'], [one ? String(one.short.waiting + one.long.waiting) : '–', 'n'],
        [one ? held(one.short) : '–', 'n'], [one ? held(one.long) : '–', 'n'],
      ],
    };
  });
  table('classes', rows);

  table('measures', doc.measures.map((one) => ({
    key: String(one.id),
    cells: [
      [Object.entries(one.target).map(([name, value]) => `${name}=${value}`).join(' '), 'code'],
      [one.action === 'block' ? 'block' : 'slow to ' + percent(one.action.slow), 'bad'], [span(one.expires - now), 'n'], [String(one.refused), 'n'],
      [one.reason, 'wide'], [one.author, 'dim wide'],
    ],
    button: () => sure('End', () => post('quarantine/remove', { id: one.id, author: '-' })),
  })));
  table('changes', mode.changes.map((one) => ({
    key: one.class || '',
    cells: [[one.class || 'all classes'], [one.mode + (one.percent === null ? '' : ` ${one.percent} %`), worst(one.mode)], [one.until ? span(one.until - now) : 'never', 'n'], [one.reason || '–', 'wide'], [one.by, 'dim wide']],
    button: () => sure('Take back', () => post('mode', { class: one.class })),
  })));
  say($('configured'), 'configured: ' + mode.configured);

  const lane = status.lanes.find((each) => each.lane === 'reserved') || {};
  facts($('reserved'), reserved.on ? [
    ['Last test', check ? `${check.success ? 'works' : 'FAILS'}, ${span(now - check.at)} ago, ${ms(check.took_ms)}` : 'not tested', dying ? 'bad' : ''],
    ['It said', check ? check.what : '–'],
    ['Requests', `${reserved.in_flight} of ${reserved.max_in_flight}`, reserved.in_flight >= reserved.max_in_flight ? 'bad' : ''],
    ['Connections', `${lane.connections} of ${reserved.max_connections}`, lane.connections >= reserved.max_connections ? 'bad' : ''],
    ['Sessions', String(lane.tunnels)],
    ['Served', `${reserved.admitted} since the start`],
    ['Refused', reserved.refused ? `${reserved.refused} since the start: the lane was full` : 'nobody', reserved.refused ? 'bad' : ''],
  ] : [['Reserved lane', 'switched off (listen.reserved)', 'warn']]);
  say($('about'), `spillway ${status.version}, pid ${status.pid}, configuration ${status.generation}. Times are UTC. This is one node: the others decide for themselves and have a console of their own.`);
  document.title = `${status.level || culprit ? '▲ refusing · ' : ''}${doc.host} · spillway`;
  choices();
}

// ---- what is wrong

const alerts = new Map();
function alert(key, css, title, text, button) {
  let element = alerts.get(key);
  if (!title) { if (element) { element.remove(); alerts.delete(key); } return; }
  if (!element) {
    element = make('p', {}, make('b'), make('span'), button ? button() : null);
    alerts.set(key, element);
    $('alerts')[key === 'link' ? 'prepend' : 'append'](element);
  }
  element.className = 'alert ' + css;
  say(element.children[0], title);
  say(element.children[1], text);
}

function warn() {
  const silent = heard === null ? 0 : (Date.now() - heard) / 1000;
  const gone = lost !== null && (heard === null || silent > 2.5);
  document.body.classList.toggle('stale', gone && heard !== null);
  const link = $('link');
  link.className = gone ? 'lost' : heard === null ? 'waits' : '';
  say(link, gone ? 'no data' : heard === null ? 'waiting for data' : 'live');
  alert('link', 'bad', gone ? 'No data' + (heard === null ? '' : ' since ' + clock(heard) + ' UTC') : '',
    heard === null ? lost : `(${span(silent)}) ${lost} What is shown below is old. It goes on by itself when Spillway answers again.`);
  if (!doc) return;
  const { status } = doc;
  const { culprit } = status;
  alert('upstream', 'bad', status.upstream ? '' : 'The apiserver does not answer', 'Calls get 503 with Retry-After until it does.');
  const check = status.reserved_check;
  alert('lane', 'bad', check && !check.success ? 'The reserved lane fails its test' : '', check ? check.what : '');
  alert('culprit', 'bad', culprit ? 'Behind the overload' : '', culprit ? culpritText(culprit) : '',
    () => make('button', { type: 'button', class: 'switch', on: { click: () => doc.status.culprit && measure({ tenant: doc.status.culprit.tenant }) } }, 'Block or slow…'));
  const loose = status.mode === 'enforce' ? '' : status.mode;
  alert('mode', 'warn', loose === 'shadow' ? 'Shadow' : loose ? 'Off' : '', loose === 'shadow' ? 'Decisions are made and counted, but everything is admitted.' : 'Nothing is decided: everything is admitted.');
}

// Read out when it changes, and not with every number in it.
function announce() {
  say($('announce'), [...$('alerts').children].map((one) => one.firstChild.textContent).join('. '));
}

function culpritText(one) {
  const herd = one.herd ? `, a herd of ${one.instances} instances` : one.instances > 1 ? `, ${one.instances} instances` : '';
  return `${one.tenant}${herd} (${one.class}): ${one.shape || 'requests of many kinds'}. ${percent(one.share_ratio)} of all server time asked for, ` +
    `${rate(one.requests_per_second)} requests/s, ${percent(one.refused_ratio)} refused. Overload since ${clock(one.overload_since * 1000)} UTC (${span(doc.now - one.overload_since)}).`;
}

// ---- the loop

let timer = null;
let asking = false;
async function poll() {
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  const asked = session;
  try {
    const answer = await fetch('/console/data?since=' + last, {
      cache: 'no-store', signal: AbortSignal.timeout(5000), headers: session ? { Authorization: 'Bearer ' + session } : {},
    });
    if (!answer.ok) throw new Error(`Spillway answered ${answer.status}.`);
    const again = !take(await answer.json());
    heard = Date.now();
    lost = null;
    if (again) { asking = false; poll(); return; }
    locks(asked);
    show();
    draw();
  } catch (problem) {
    lost = problem instanceof TypeError ? 'Spillway cannot be reached: has it stopped, or the way to it (ssh -L)?' : problem.name === 'TimeoutError' ? 'Spillway does not answer.' : problem.message;
  }
  asking = false;
  warn();
  announce();
  if (!document.hidden) timer = setTimeout(poll, 1000);
}
document.addEventListener('visibilitychange', () => { if (!document.hidden) poll(); });
addEventListener('resize', draw);
document.body.classList.add('locked');
fragment();
poll();
