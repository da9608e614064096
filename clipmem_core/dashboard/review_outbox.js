// The outbox of review mode: decisions go to the server in batches, and are kept until it has stored them.

const KEPT = 'clipmem-review'
const BATCH = 50 // events at once
const SIGN = 4000, SEND = 200, SLOWEST = 5000, PATIENCE = 15000 // milliseconds
const UNREACHED = 'the server cannot be reached'

async function ask(path, {parameters = {}, ...how} = {}) {
    const url = new URL(location.pathname.replace(/[^/]*$/, '') + path, location.origin)
    for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value)
    const answer = await fetch(url, {signal: AbortSignal.timeout(PATIENCE), ...how}).catch(() => {
        throw new Error(UNREACHED)
    })
    if (answer.ok) return answer
    const told = await answer.json().catch(() => ({}))
    throw Object.assign(new Error(told.error ?? `the server answers ${answer.status}`), {status: answer.status})
}

// What a use of the browser's store gives; another value where the store is full, forbidden or holds what is no JSON.
function tried(use, otherwise) {
    try {
        return use()
    } catch {
        return otherwise
    }
}

// Shows a few words for a while, in place of those that a timer is still for, and gives the timer of these.
function shownFor(sign, timer, text, kind) {
    sign.className = `sign ${kind}`
    sign.textContent = text
    clearTimeout(timer)
    return setTimeout(() => { sign.textContent = ''; sign.className = 'sign' }, SIGN)
}

const inWords = number => number.toLocaleString('en')

// What was pressed and is not stored yet: sent in its order, one batch at a time, tried again until it is answered.
//
// Each event has an entry of its own in the browser's store, from its press to its answer. One that another page of this
// browser left there is sent by this one: the server stores each client's number once, whoever sends it.
class Outbox {
    constructor() {
        this.client = [...crypto.getRandomValues(new Uint8Array(16))].map(b => b.toString(16).padStart(2, '0')).join('')
        this.number = 0
        this.waiting = []
        this.trouble = ''
        this.delay = SEND
        this.most = BATCH
        this.listeners = new Set()
        this.refusals = []
        addEventListener('pagehide', () => this.waiting.length && this.post(this.batch(), {keepalive: true}).catch(() => {}))
        addEventListener('online', () => this.schedule(0))
    }

    put(event) {
        const told = {...event, client: this.client, number: ++this.number, time: Date.now()}
        this.waiting.push(told)
        const text = JSON.stringify(told)
        const kept = tried(() => localStorage.setItem(this.key(told), text) ?? true, false)
        if (!kept) this.trouble = 'this browser keeps no more: leave the page open'
        this.schedule(this.delay)
        return told
    }

    key({client, number}) {
        return `${KEPT}/${client}/${number}`
    }

    // Take over what other pages, or this one before a reload, left of a data set: the oldest client first.
    adopt(dataset) {
        const known = new Set(this.waiting.map(this.key)), clients = {}
        for (const key of tried(() => Object.keys(localStorage), [])) {
            if (!key.startsWith(`${KEPT}/`) || known.has(key)) continue
            const told = tried(() => JSON.parse(localStorage.getItem(key)), null)
            if (told?.dataset === dataset) (clients[told.client] ??= []).push(told)
        }
        const found = Object.values(clients).map(each => each.sort((a, b) => a.number - b.number))
        this.waiting = [...found.sort(([a], [b]) => a.time - b.time).flat(), ...this.waiting]
        this.schedule(0)
    }

    schedule(delay) {
        if (this.busy || !this.waiting.length) return
        if (this.timer && delay >= this.delay) return
        clearTimeout(this.timer)
        this.timer = setTimeout(() => this.send(), delay)
    }

    // The first events of one client and one audit.
    batch() {
        const [first] = this.waiting
        const other = this.waiting.findIndex(each => each.client !== first.client || each.audit !== first.audit)
        return this.waiting.slice(0, other < 0 ? this.most : Math.min(this.most, other))
    }

    post(batch, how = {}) {
        const events = batch.map(({number, kind, pair_id, judged, captions, undoes, others, tag, seen}) =>
            ({number, kind, pair_id, judged, captions, undoes, others, tag, seen}))
        const body = JSON.stringify({audit: batch[0].audit, client: batch[0].client, events})
        return ask(`${batch[0].prefix}/events`, {method: 'POST', headers: {'Content-Type': 'application/json'}, body, ...how})
    }

    async send() {
        this.timer = 0
        if (this.busy || !this.waiting.length) return
        this.busy = true
        const batch = this.batch()
        try {
            const {stored, refused} = await (await this.post(batch)).json()
            Object.assign(this, {trouble: '', delay: SEND, most: BATCH})
            this.leave(batch.filter(told => told.number <= stored), refused)
        } catch (error) {
            this.trouble = error.message
            this.delay = Math.min(2 * this.delay, SLOWEST)
            if (error.status === 404) this.waiting = this.waiting.filter(told => !batch.includes(told)) // kept, not sent
            else if ([400, 413].includes(error.status) && batch.length === 1) this.leave(batch, {[batch[0].number]: error.message})
            else if ([400, 413].includes(error.status)) this.most = 1
        }
        this.busy = false
        for (const listener of this.listeners) listener.sent()
        this.schedule(this.delay)
    }

    leave(batch, refused) {
        this.waiting = this.waiting.filter(told => !batch.includes(told))
        for (const told of batch) {
            tried(() => localStorage.removeItem(this.key(told)))
            const why = refused[told.number]
            if (!why) continue
            this.refusals.push(`${told.kind} of ${told.pair_id}: ${why}`)
            for (const listener of this.listeners) listener.refused(told)
        }
    }
}

const outbox = globalThis.clipmemOutbox ??= new Outbox() // one for all that this page load shows: it goes on when a page is left
