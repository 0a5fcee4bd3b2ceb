#!/usr/bin/env python3
"""A stand-in for the program foldseek where there is none: `search` and `convertalis` with the arguments that structure_search gives them.

It aligns every query with every target, local alignments of 3Di and amino acid letters together, by biotite with the published 3Di matrix: no prefilter,
and an E-value by a rule of thumb. For tests and for the page on searching; not to be trusted with anything else.
"""
import json, math, sys
from pathlib import Path
import numpy as np
from biotite.sequence import Alphabet, GeneralSequence
from biotite.sequence.align import SubstitutionMatrix, align_optimal
from structure_search.foldseek_db import PairedFoldseekDB

STATES, RESIDUES = 'ACDEFGHIKLMNPQRSTVWY', 'ACDEFGHIKLMNPQRSTVWYX'

def matrix(letters=2.1):
    "Scores of pairs of (3Di state, residue): so much of the one, 1.4 of the other"
    ss, aa = SubstitutionMatrix.std_3di_matrix().score_matrix(), SubstitutionMatrix.std_protein_matrix()
    blosum = np.array([[aa.get_score(x, y) for y in RESIDUES] for x in RESIDUES])
    alphabet = Alphabet([*range(len(STATES)*len(RESIDUES))])
    return alphabet, SubstitutionMatrix(alphabet, alphabet, (letters*np.kron(ss[:20,:20], np.ones((21, 21)))+1.4*np.kron(np.ones((20, 20)), blosum)).round().astype(np.int32))

def coded(p, alphabet):
    s = GeneralSequence(alphabet)
    s.code = np.array([STATES.index(x)*21+RESIDUES.index(y if y in RESIDUES else 'X') for x,y in zip(p.ss, p.aa)], np.uint16)
    return s

def cigar(trace):
    out, last = [], None
    for q,t in trace:
        what = 'M' if q>=0 and t>=0 else 'I' if q>=0 else 'D'
        if what==last: out[-1][0] += 1
        else: out.append([1, what]); last = what
    return ''.join(f'{n}{w}' for n,w in out)

def search(a):
    q, t = PairedFoldseekDB(a[0]), PairedFoldseekDB(a[1])
    limit, most = float(a[a.index('-e')+1]), int(a[a.index('--max-seqs')+1])
    if q.ss is None or t.ss is None: sys.exit('Input database has the wrong type')
    alphabet, m = matrix()
    targets, hits = [(p, coded(p, alphabet)) for p in t], []
    for p in q:
        x, mine = coded(p, alphabet), []
        for other,y in targets:
            al = align_optimal(x, y, m, gap_penalty=(-21, -3), local=True, max_number=1)[0]
            evalue = 0.1*len(p)*len(targets)*math.exp(-0.045*al.score)
            if evalue>limit or not len(al.trace): continue
            pairs = al.trace[(al.trace>=0).all(1)]
            same = np.mean([p.aa[i]==other.aa[j] for i,j in pairs])
            mine.append(dict(query=p.name, target=other.name, theader=other.header, fident=f'{same:.3f}', alnlen=len(al.trace), qstart=pairs[0,0]+1, qend=pairs[-1,0]+1, qlen=len(p), tstart=pairs[0,1]+1, tend=pairs[-1,1]+1, tlen=len(other), evalue=f'{evalue:.3E}', bits=int(al.score/3), cigar=cigar(al.trace)))
        hits += sorted(mine, key=lambda h: -h['bits'])[:most]
    Path(a[2]).write_text(json.dumps(hits, default=int))

def convertalis(a):
    columns = a[a.index('--format-output')+1].split(',')
    Path(a[3]).write_text(''.join('\t'.join(str(h[c]) for c in columns)+'\n' for h in json.loads(Path(a[2]).read_text())))

if __name__=='__main__':
    if sys.argv[1:2]==['version']: print('stand-in')
    elif sys.argv[1:2]==['search']: search(sys.argv[2:])
    elif sys.argv[1:2]==['convertalis']: convertalis(sys.argv[2:])
    else: sys.exit(f'unknown command {sys.argv[1:]}')
