// The console. Polls one document a second and draws it. Whatever comes from the server goes into the page as text:
// names of users and user agents are an attacker's to choose.
'use strict';

const SVG = 'http://www.w3.org/2000/svg';
const KEEP = 15 * 60 * 1000; // history kept here, ms
const GAP = 3500; // a longer pause between points is shown as one, ms
const $ = (id) => document.getElementById(id);

function make(tag, attributes, ...children) {
  const svg = ['svg', 'path', 'line', 'text', 'g'].includes(tag);
  const element = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === 'on') for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// ---- numbers for people

function digits(value, most) {
  if (value === 0) return '0';
  return value < 10 && most > 0 ? value.toFixed(1).replace(/\.0$/, '') : String(Math.round(value));
}
function rate(value) {
  return value >= 10000 ? digits(value / 1000, 1) + 'k' : digits(value, 1);
}
function ms(value) {
  if (value === null || value === undefined) return '–';
  if (value >= 1000) return digits(value / 1000, 1) + ' s';
  return (value > 0 && value < 0.1 ? '<0.1' : digits(value, 1)) + ' ms';
}
function bytes(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) { value /= 1024; at += 1; }
  return digits(value, 1) + ' ' + units[at];
}
const percent = (value) => (value > 0 && value < 0.01 ? '<1' : digits(value * 100, 0)) + '\u00a0%';
function span(seconds) {
  seconds = Math.max(0, Math.round(seconds));
  const [d, h, m, s] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60, seconds % 60];
  if (d) return d + 'd' + (h ? h + 'h' : '');
  if (h) return h + 'h' + (m ? m + 'm' : '');
  if (m) return m + 'm' + (s && m < 10 ? s + 's' : '');
  return s + 's';
}
const clock = (unixMs) => new Date(unixMs).toISOString().slice(11, 19);

// ---- what is known

let doc = null; // the last document
let points = []; // history, oldest first
let names = []; // classes; the last is the reserved lane
let reasons = [];
let last = 0; // number of the last point
let pid = null;
let heard = null; // when the last document came, by this machine's clock
let lost = null; // why there is none since
let minutes = 5;
let pointed = null; // time the reader points at, ms
let session = sessionStorage.getItem('spillway-session');

function take(next) {
  if (pid !== next.status.pid) {
    // Another process: what it counts is not what the one before counted.
    if (pid !== null && last > 0) { pid = next.status.pid; last = 0; points = []; return false; }
    pid = next.status.pid;
  }
  const list = next.history.names;
  if (list.join('\n') !== names.join('\n')) { names = list; points = []; }
  reasons = next.reasons;
  for (const point of next.history.points) {
    point.of = [];
    for (const numbers of point.classes) point.of[numbers[0]] = numbers;
    point.why = [];
    for (const [at, value] of point.reasons) point.why[at] = value;
    points.push(point);
  }
  last = next.history.last;
  const newest = points.length ? points[points.length - 1].at : 0;
  while (points.length && points[0].at < newest - KEEP) points.shift();
  doc = next;
  return true;
}

const [ADMITTED, SPARED, REFUSED, SHADOW, WAIT, LONGEST] = [1, 2, 3, 4, 5, 6];
const of = (point, at, what) => (point.of[at] ? point.of[at][what] : 0);
function total(point, ...what) {
  let sum = 0;
  for (const numbers of point.of) if (numbers) for (const one of what) sum += numbers[one];
  return sum;
}
const offered = (point) => total(point, ADMITTED, SPARED, REFUSED);
const lastPoints = (many) => points.slice(-many);
const mean = (of) => { const some = lastPoints(3); return some.length ? some.reduce((sum, point) => sum + of(point), 0) / some.length : 0; };
const colour = (at) => 'k' + (at === names.length - 1 ? 8 : at % 8);
