// One pair after another: a key decides on the pair on screen. Keys pressed before the next pair is painted wait for it.

const AHEAD = 20 // pairs that are preloaded
const REST = 300 // milliseconds on a pair, or without a key, until the server is asked about it
const WAITING = 8 // keys that wait, at most
const ZOOM = 3, CLOSEST = 8 // by the key, and at most
const WORDS = 2 // keys of likelier words; one more is of a swap

const asLines = captions => captions.map(text => text.split(/\s+/).join(' ').trim()).join('\n')

class Single extends Pairs {
    constructor(root, data) {
        super(root, data)
        Object.assign(this, {rows: [], place: 0, editing: false, at: new Map(), path: location.pathname})
        Object.assign(this, {keys: [], doubts: new Map(), judged: Promise.resolve()}) // `doubts`: row and new caption → reason
        this.visited = new Set() // rows that were decided here: "Undecided only" does not hide them from the arrows
        Object.assign(this, {box: root.querySelector('textarea'), only: this.find('undecided'), suggested: this.find('suggested')})
        this.only.checked = data.undecided
        root.querySelector('.review').classList.toggle('follows', Boolean(data.follows))
        this.on(this.only, 'change', () => this.place < this.rows.length ? this.draw() : this.go(this.next(0)))
        this.on(this.find('edit'), 'keydown', event => {
            if (event.key === 'Escape') this.act('cancel')
            else if (event.key === 'Enter' && !event.isComposing && (event.ctrlKey || event.metaKey)) this.recaption(event)
        })
        this.on(this.find('edit'), 'submit', event => this.recaption(event))
        const picture = this.find('picture')
        this.on(picture, 'pointermove', ({clientX, clientY}) => {
            const {left, top} = picture.getBoundingClientRect(), {offsetHeight = 0} = picture.firstChild ?? {}
            const origin = `${clientX - left}px ${Math.min(clientY - top, offsetHeight)}px`
            picture.style.setProperty('--origin', origin) // the point below the pointer stays, and moving it moves the picture
        })
        this.on(picture, 'wheel', event => {
            event.preventDefault()
            this.zoom(this.scale * 2 ** (-event.deltaY / 300))
        })
        this.on(this.box, 'input', () => this.later('judge', REST, () => this.judge()))
        this.open()
    }

    async open() {
        this.wait('Opening…')
        try {
            const pair = new URLSearchParams(location.search).get('pair') ?? ''
            const {rows, first, entry, decided, status} = await (await this.ask('queue', {pair})).json()
            if (first !== null && !rows.includes(first)) rows.unshift(first) // a link to a pair that is not in the selection
            Object.assign(this, {rows, entry, at: new Map(rows.map((row, place) => [row, place]))})
            for (const [row, decision] of Object.entries(decided)) this.set(Number(row), decision)
            this.adopt()
            this.showChanges([], status)
            this.go(this.at.get(first) ?? this.next(0))
        } catch (error) {
            if (this.isStopped) return
            this.wait(`This queue cannot be opened: ${error.message}. Retrying…`)
            this.later('open', 2 * POLL, () => this.open())
        }
    }

    isHidden(row, except) {
        return this.only.checked && this.decisions.get(row) && !except?.has(row)
    }

    // The places to show after a place; "Undecided only" wraps around at the end.
    *places(from) {
        const count = this.rows.length, end = this.only.checked ? from + count : count
        for (let place = from; place < end; place += 1) if (!this.isHidden(this.rows[place % count])) yield place % count
    }

    next(from) {
        return this.places(from).next().value ?? this.rows.length
    }

    go(place) {
        Object.assign(this, {place, editing: false})
        this.draw()
    }

    step(by) {
        let place = this.place + by
        while (this.rows[place] !== undefined && this.isHidden(this.rows[place], this.visited)) place += by
        place < 0 ? this.sign('This is the first pair.') : this.go(Math.min(place, this.rows.length))
    }

    // The row on screen and some of those that follow.
    upcoming(count) {
        const places = new Set([this.place, ...this.places(this.place + 1).take(count)])
        return [...places].map(place => this.rows[place]).filter(row => row !== undefined)
    }

    showLoaded(row) {
        const {card} = this.loaded.get(row), unsent = this.pending.some(({rows = []}) => rows.includes(row))
        const isCurrent = !unsent && card.decision === (this.decisions.get(row) ?? null)
        if (isCurrent || !this.captions.get(row)?.length) this.captions.set(row, card.recaptioned)
        this.draw()
    }

    reload() {
        for (const row of this.loaded.keys()) this.forget(row)
        this.draw()
    }

    showChanges(changed, status) {
        const [, decision] = changed.find(([row]) => row === this.shown?.row) ?? [], label = labelOf(decision) ?? 'undecided'
        if (decision !== undefined) {
            this.shown.news = `Just marked ${label[0].toUpperCase()}${label.slice(1)} in another tab.`
            this.sign(this.shown.news, 'late')
        }
        this.write({status: status ?? ''})
        this.drawState()
    }

    wait(reason, links = []) {
        Object.assign(this, {shown: null, choices: [], painted: false})
        this.find('links').replaceChildren(...links.map(([label, href]) => make('a', label, {href})))
        delete this.find('pair').dataset.pair
        this.find('pair').hidden = true
        this.write({wait: this.failure ? `${reason} (${this.failure}; retrying)` : reason})
    }

    draw() {
        const row = this.rows[this.place], loaded = this.loaded.get(row)
        this.find('review').classList.toggle('ended', row === undefined)
        if (row === undefined) {
            this.name('')
            this.wait(this.only.checked ? `All ${inWords(this.rows.length)} pairs are decided.` : 'That was the last pair.', this.data.links)
        } else if (loaded && this.shown?.row !== row) this.fill(row, loaded)
        else if (this.shown?.row !== row) {
            if (!this.data.follows) this.name('') // a reload must not return to the pair that was just decided
            this.wait('Loading…')
        }
        this.drawState()
        this.loadAll(this.upcoming(AHEAD))
    }

    // Magnify the picture, in the resolution of its file.
    zoom(scale) {
        const image = this.find('picture').firstChild
        if (!image || !this.shown) return
        this.scale = Math.min(CLOSEST, Math.max(1, scale))
        image.style.scale = this.scale
        if (this.scale > 1 && image.src.startsWith('blob:')) image.src = this.addressOf(this.shown)
    }

    // Write the pair into the address, for reloads, the back button and links. Some browsers limit how often.
    name(pair) {
        const url = new URL(location), before = url.searchParams.get('pair') ?? ''
        if (location.pathname !== this.path || before === pair) return
        url.searchParams.delete('pair')
        if (pair) url.searchParams.set('pair', pair)
        tried(() => history.replaceState(history.state, '', url))
    }

    fill(row, {card, image, fault}) {
        const order = [...new Set([card.first, ...card.captions.keys()])].filter(number => number in card.captions)
        const shown = {row, card, order, focus: 0, news: ''}
        Object.assign(this, {shown, painted: false, drawn: ''})
        const broken = fault && `Picture cannot be read: ${fault}`, {label, score, pair_id} = card
        this.write({label, score, id: `id: ${pair_id}`, fault: broken, wait: ''})
        this.name(pair_id)
        this.find('picture').replaceChildren(image)
        this.zoom(1)
        this.find('review').classList.toggle('several', order.length > 1)
        this.find('texts').scrollTop = 0
        this.find('pair').hidden = false
        this.find('pair').dataset.pair = pair_id
        requestAnimationFrame(() => setTimeout(() => {
            if (this.isStopped || this.shown !== shown) return
            this.painted = true
            this.actAll()
        }))
        if (!this.data.follows) return
        tried(() => sessionStorage.setItem(OPENED, pair_id))
        // The page shows its scores; another page must not get its address
        this.later('follow', REST, () => location.pathname === this.path && this.trigger({pair: pair_id}))
    }

    drawState() {
        const {rows, place, shown, data: {title}} = this, {waiting, trouble} = outbox, row = rows[place]
        const position = (row === undefined ? '' : `${inWords(place + 1)} of `) + inWords(rows.length)
        const decidedCount = [...this.decisions].filter(([each, decision]) => decision && this.at.has(each)).length
        const sent = waiting.length ? `${inWords(waiting.length)} being sent` : 'saved'
        const decision = this.decisions.get(row), note = shown && this.loaded.get(row)?.card.note
        const queue = rows.length ? `${position}${title && `, ${title.toLowerCase()}`}` : ''
        this.write({place: queue, stored: `${inWords(decidedCount)} decided, ${this.trouble || sent}`})
        this.write({badge: labelOf(decision) ?? 'undecided', note: note ? `note: ${note}` : ''})
        this.find('stored').classList.toggle('trouble', Boolean(trouble))
        this.find('badge').className = `badge ${decision ?? ''}`
        if (shown) this.drawCaptions()
        this.find('edit').hidden = !this.editing
        this.find('captions').hidden = this.editing
        if (!this.editing) this.box.blur() // a hidden box has the focus, and gets the next key, until the next frame
    }

    // A caption, by default that in focus: its text before and after changes and its place, −1 if it was changed or removed;
    // `texts`: without one, two and more marked sentences; `rest`: without the next one, null if it has none.
    caption(number = this.shown.order[this.shown.focus]) {
        const {shown: {card: {captions, words, wrong = [], all_wrong = false}}, currentCaptions} = this
        const {[number]: text} = captions, {[number]: marks = []} = words
        const texts = marks.reduce(shorter => [...shorter, withoutSentence(shorter.at(-1), text, marks) ?? text], [text])
        const inPlace = currentCaptions.length === captions.length
        const place = inPlace ? number : currentCaptions.findIndex(each => texts.includes(each))
        const after = currentCaptions[place], rest = withoutSentence(after, text, marks)
        const allWrong = all_wrong && currentCaptions === captions // the pair as a whole
        const isWrong = allWrong || wrong.includes(number) && after === text || rest !== null
        return {number, text, texts, after, place, rest, allWrong, isWrong}
    }

    // Draw each caption once: a removed or changed one, or its removed sentence, is struck through; its new text follows.
    drawCaptions() {
        const {shown: {row, card: {captions, words}, order}, currentCaptions} = this
        const state = JSON.stringify([row, currentCaptions, this.swap]), all = order.map(number => this.caption(number))
        if (this.drawn === state) return
        this.drawn = state
        const lines = all.map(({number, text, texts, after = ''}) => texts.includes(after)
            ? marked(text, words[number], texts.indexOf(after)) : [make('s', text), foreign('p', after)])
        const known = all.flatMap(({texts, after}) => [...texts, after])
        const added = currentCaptions.filter(text => !known.includes(text)).map(text => [foreign('p', text)])
        this.find('captions').replaceChildren(...[...lines, ...added].map((parts, place) =>
            make(all[place]?.isWrong ? 'li.wrong' : 'li', make('div.line', {dir: 'auto'}, ...parts))))
        this.drawSuggestions()
    }

    // The pair whose captions fit the picture on screen, while its suggestion can be accepted.
    get swap() {
        const {row, card: {swap}} = this.shown, other = this.decisions.get(swap?.row)
        return !this.expected(row).length && (swap?.mutual ? !other : other !== 'keep') && swap
    }

    focusOn(place) {
        const {length} = this.shown.order
        this.shown.focus = (place + length) % length
        this.drawSuggestions()
    }

    // Draw suggestions: all captions of another pair; for the caption in focus likelier words.
    drawSuggestions() {
        const {shown: {row, card, focus, order}, swap} = this, {number, text, after, rest, allWrong} = this.caption()
        const list = this.find('captions'), lines = [...list.children]
        allWrong || !lines[focus] ? list.after(this.suggested) : lines[focus].append(this.suggested)
        allWrong ? list.before(this.find('reason')) : this.suggested.prepend(this.find('reason'))
        const marks = !allWrong && text === after && card.words[number] || []
        const surprising = marks.filter(({rank, better}) => rank <= WORDS && better.length)
        const words = surprising.map(({start, end, word, better: [[other, value]]}) => ({value,
            caption: Array.from(text).toSpliced(start, end - start, other).join(''),
            label: make('span', make('bdi', word), ' → ', make('bdi', other))}))
        const swaps = swap ? [{swap, value: '', label: make('span',
            make('img', {src: this.addressOf(swap, 'small'), alt: altOf(swap.captions)}),
            make('b', 'Captions of ', make('bdi', swap.pair_id), ` fit this picture (${swap.probability})${swap.mutual ? ', and vice versa' : ''}`),
            foreign('span', swap.captions[0]))}] : []
        this.choices = [...swaps, ...words]
        const reason = text === after ? card.reasons[allWrong ? order[0] : number] : this.doubts.get(`${row} ${after}`)
        const states = {astray: allWrong, whole: allWrong || order.length < 2 && rest === null} // X removes the pair as a whole
        for (const [name, is] of Object.entries(states)) this.find('review').classList.toggle(name, is)
        this.write({part: rest === null ? 'caption' : 'sentence'})
        this.write({heading: this.choices.length ? 'Suggestion' : '', reason: reason || ''})
        lines.forEach((line, place) => line.classList.toggle('focus', place === focus))
        this.find('choices').replaceChildren(...this.choices.map(({label, value}, place) =>
            make('li', button(() => this.act(place + 1), make('kbd', place + 1), label, make('i', value)))))
    }

    click(event) {
        if (event.target.closest('button')) return
        const line = event.target.closest('.captions > li'), place = [...this.find('captions').children].indexOf(line)
        if (line && place < this.shown.order.length) this.focusOn(place)
        else if (event.target.closest('.picture img')) this.act('zoom')
    }

    // React to a key and return whether it is one of this page's. Up and down scroll the page of a pair with one caption.
    pressed(key, event) {
        const name = key in MOVES ? key : '123'.includes(key) ? Number(key) : this.actOf(key, event)
        const scrolls = key in MOVES && !this.keys.length && !(this.shown?.order.length > 1)
        if (event.ctrlKey || event.metaKey || !name || scrolls) return false
        if (!event.repeat || key.startsWith('arrow')) this.act(name)
        return true
    }

    // Act now or, behind the acts that wait, once the next pair is painted. What follows `edit` would be typed text.
    act(name) {
        if (name === 'undo' || name === 'cancel') this.keys = []
        if (this.keys.length < WAITING && this.keys.at(-1) !== 'edit') this.keys.push(name)
        else this.sign('A key was ignored: too many were pressed before the next pair was on screen.', 'late other')
        this.actAll()
    }

    actAll() {
        const needsPair = name => !(name in STEPS || ['undo', 'cancel', 'zoom'].includes(name))
        const isReady = name => this.painted || !needsPair(name) || !(this.place in this.rows)
        while (this.keys.length && isReady(this.keys[0])) this.perform(this.keys.shift())
    }

    perform(name) {
        if (name in STEPS) this.step(STEPS[name])
        else if (name === 'zoom') this.zoom(this.scale > 1 ? 1 : ZOOM)
        else if (name === 'cancel') this.editing = false
        else if (name !== 'undo' && !this.shown) this.sign('There is no pair to decide on.', 'late')
        else if (name === 'keep' || name === 'remove') this.decideShown(name)
        else if (['undo', 'drop', 'edit'].includes(name)) this[name]()
        else if (name in MOVES) this.focusOn(this.shown.focus + MOVES[name])
        else {
            const {caption, swap} = this.choices[name - 1] ?? {}
            if (swap?.mutual) this.decideShown('swap', undefined, 'captions swapped', swap)
            else if (swap) this.decideShown('recaption', swap.captions)
            else this.use(caption)
        }
        this.drawState()
    }

    // If an act fails, those that wait do too.
    sign(text, kind, ...parts) {
        const {length} = kind === 'late' ? this.keys.splice(0) : []
        super.sign(length ? `${text} Keys after it were ignored: ${length}.` : text, kind, ...parts)
    }

    // Decide on the pair on screen, and in a swap on another one, and show the next one, or what else is wrong in this one.
    decideShown(kind, captions, label = labelOf(kind), swap = null) {
        const {row, card, news, order, focus} = this.shown, places = kind === 'recaption' ? [focus, ...order.keys()] : []
        this.shown.news = ''
        if (news) return this.sign(`${news} Press again to replace it.`, 'late')
        const cards = swap ? [{...card, after: swap.captions}, {...swap, after: card.captions}] : [card]
        this.decide(cards, kind, {captions, expected: this.expected(row)})
        this.visited.add(row)
        const wrong = places.find(place => this.caption(order[place]).isWrong)
        this.shown.focus = wrong ?? focus
        const more = wrong >= 0 ? ` Another ${this.caption().rest === null ? 'caption' : 'sentence'} is probably wrong.` : ''
        this.sign(`${label} ✓${more}`, kind)
        this.go(more ? this.place : this.next(this.place + 1))
        return true
    }

    // Use a suggestion; the server is asked afterwards whether the new caption may still be wrong.
    use(caption) {
        const {row, card: {pair_id}} = this.shown, {after: before = ''} = this.caption()
        if (this.change([caption])) this.judged = this.judged.then(async () => {
            const answer = await this.ask('judge', {row, caption, before}).then(response => response.json()).catch(() => null)
            const {right = Boolean(answer), wrong} = answer ?? {} // an audit that cannot judge answers without both
            const stands = this.decisions.get(row) !== 'remove' && this.captions.get(row)?.includes(caption)
            if (this.isStopped || right || !stands) return
            const doubt = wrong ? `may still be wrong (${wrong})` : 'could not be checked'
            this.doubts.set(`${row} ${caption}`, `The new caption ${doubt}.`)
            if (this.shown) this.drawSuggestions()
            const back = this.shown?.row === row ? [] : [' ← leads back to it. ', button(() => this.undone([row]), 'Show it')]
            this.sign(`The new caption of ${pair_id} ${doubt}.`, 'late other', ...back)
        })
    }

    undone(rows) {
        for (const row of rows) this.visited.add(row)
        this.keys = []
        this.go(this.at.get(rows[0]) ?? this.place)
    }

    get currentCaptions() {
        const {row, card} = this.shown, changed = this.captions.get(row) ?? []
        return changed.length ? changed : card.captions
    }

    // Replace the caption in focus by others: by none to remove it, and the pair if it has no other caption.
    change(texts, label) {
        const {place} = this.caption(), captions = this.currentCaptions.toSpliced(place, 1, ...texts)
        if (texts.includes(undefined)) this.sign('There is no such suggestion.', 'late')
        else if (place < 0) this.sign('This caption was changed or removed before.', 'late')
        else if (captions.length) return this.decideShown('recaption', captions, label)
        else return this.decideShown('remove')
    }

    // Remove the pair if all is wrong, else the marked sentence of the caption in focus, else the caption.
    drop() {
        const {rest, allWrong} = this.caption()
        if (allWrong) this.decideShown('remove')
        else this.change(rest ? [rest] : [], `${rest ? 'sentence' : 'caption'} removed`)
    }

    // Edit the captions, one a line; the caret is after the caption in focus, or after its first marked sentence.
    edit() {
        const {currentCaptions} = this, {number, text, after, place} = this.caption()
        this.box.value = this.unchanged = asLines(currentCaptions)
        this.editing = true
        this.drawState()
        const end = text === after && this.shown.card.words[number]?.find(({sentence}) => sentence >= 0)?.end
        const behind = end ? Array.from(text).slice(end).join('').length : 0
        this.box.selectionEnd = asLines(currentCaptions.slice(0, place + 1)).length - behind
        this.box.focus()
        this.judge()
    }

    // Show how likely the line with the caret is wrong, and the caption that it replaces. The last request counts.
    async judge() {
        if (!this.editing) return // saved meanwhile
        const {value, selectionStart} = this.box, line = value.slice(0, selectionStart).split('\n').length - 1
        const [caption, before] = [value, this.unchanged].map(text => text.split('\n')[line] ?? '')
        const answer = await this.ask('judge', {row: this.shown?.row, caption, before}).catch(() => null)
        const {text = ''} = await answer?.json() ?? {}
        if (this.box.value === value) this.write({judged: text})
    }

    recaption(event) {
        event.preventDefault()
        const captions = this.box.value.split('\n').map(line => line.trim()).filter(Boolean)
        if (!captions.length) this.sign('Not saved: write at least one caption.', 'late')
        else if (captions.join('\n') === this.unchanged) this.sign('Not saved: nothing was changed.', 'late')
        else this.decideShown('recaption', captions)
    }
}
