// The outbox: sends decisions to the server in numbered batches and stores them in the browser until the server has them.

const STORE = 'clipmem-review'
const BATCH = 50 // events in one request
const SEND = 200, SLOWEST = 5000, PATIENCE = 15000 // milliseconds: first and longest delay of a retry, time of a request

async function ask(path, {parameters = {}, ...options} = {}) {
    const url = new URL(location.pathname.replace(/[^/]*$/, '') + path, location.origin)
    for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value)
    const answer = await fetch(url, {signal: AbortSignal.timeout(PATIENCE), ...options}).catch(() => {
        throw new Error('the server cannot be reached')
    })
    if (answer.ok) return answer
    const {error = `the server answered with status ${answer.status}`} = await answer.json().catch(() => ({}))
    throw Object.assign(new Error(error), {status: answer.status})
}

// Use the browser's storage, which may be full, forbidden, or hold text that is not JSON.
function tried(use, fallback) {
    try {
        return use()
    } catch {
        return fallback
    }
}

const storedAs = ({client, number}) => `${STORE}/${client}/${number}`
const inWords = number => number.toLocaleString('en')

// Each event has an entry in the browser's storage from the key press to the answer. A page also sends events of other
// pages of this browser that are still there: the server stores each number of a client once, whoever sends it.
class Outbox {
    constructor() {
        this.client = [...crypto.getRandomValues(new Uint32Array(4))].map(number => number.toString(36)).join('')
        Object.assign(this, {number: 0, waiting: [], refusals: [], listeners: new Set()})
        Object.assign(this, {trouble: '', delay: SEND, most: BATCH, busy: false, timer: 0})
        addEventListener('pagehide', () => this.waiting.length && this.post(this.batch(), {keepalive: true}).catch(() => {}))
        addEventListener('online', () => this.schedule(0))
    }

    put(fields) {
        const event = {...fields, client: this.client, number: ++this.number, time: Date.now()}
        this.waiting.push(event)
        const stored = tried(() => localStorage.setItem(storedAs(event), JSON.stringify(event)) ?? true, false)
        if (!stored) this.trouble = 'the storage of this browser is full: keep this page open'
        this.schedule(this.delay)
        return event
    }

    // Adopt unsent events on a data set from other pages, or from this page before a reload.
    adopt(dataset) {
        const waiting = new Set(this.waiting.map(storedAs)), keys = tried(() => Object.keys(localStorage), [])
        const unsent = keys.filter(key => key.startsWith(`${STORE}/`) && !waiting.has(key))
            .map(key => tried(() => JSON.parse(localStorage.getItem(key)))).filter(event => event?.dataset === dataset)
        unsent.sort((a, b) => a.client === b.client ? a.number - b.number : a.time - b.time)
        this.waiting = [...unsent, ...this.waiting]
        this.schedule(0)
    }

    schedule(delay) {
        if (this.busy || !this.waiting.length || this.timer && delay >= this.delay) return
        clearTimeout(this.timer)
        this.timer = setTimeout(() => this.send(), delay)
    }

    // The first events of one client and one audit.
    batch() {
        const [first] = this.waiting
        const end = this.waiting.findIndex(event => event.client !== first.client || event.audit !== first.audit)
        return this.waiting.slice(0, end < 0 ? this.most : Math.min(this.most, end))
    }

    post(events, options = {}) {
        const [{prefix, audit, client}] = events, body = JSON.stringify({audit, client, events})
        return ask(`${prefix}/events`, {method: 'POST', headers: {'Content-Type': 'application/json'}, body, ...options})
    }

    async send() {
        this.timer = 0
        if (this.busy || !this.waiting.length) return
        this.busy = true
        const batch = this.batch()
        try {
            const {stored, refused} = await (await this.post(batch)).json()
            Object.assign(this, {trouble: '', delay: SEND, most: BATCH})
            this.remove(batch.filter(({number}) => number <= stored), refused)
        } catch (error) {
            const {message, status} = error, refused = [400, 413].includes(status)
            Object.assign(this, {trouble: message, delay: Math.min(2 * this.delay, SLOWEST)})
            if (refused && batch.length > 1) this.most = 1 // send one by one to find the invalid one
            else if (refused) this.remove(batch, {[batch[0].number]: message})
            else if (status === 404) this.waiting = this.waiting.filter(event => !batch.includes(event)) // stays in the storage
        }
        this.busy = false
        for (const listener of this.listeners) listener.sent()
        this.schedule(this.delay)
    }

    remove(batch, refused) {
        this.waiting = this.waiting.filter(event => !batch.includes(event))
        for (const event of batch) {
            tried(() => localStorage.removeItem(storedAs(event)))
            const reason = refused[event.number]
            if (reason) this.refusals.push(`${event.kind} of ${event.pair_id ?? 'the last change'}: ${reason}`)
            for (const listener of this.listeners) reason ? listener.refused(event) : listener.stored(event)
        }
    }
}

const outbox = globalThis.clipmemOutbox ??= new Outbox() // one for all components of a page load
